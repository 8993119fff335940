"""What `COMMAND --help` prints is read from the source, and says what the classes themselves say."""

from importlib import import_module
from inspect import Parameter, getdoc, signature
from typing import Any

import pytest

from sft_lightning.cli.help import help_text
from sft_lightning.cli.signatures import KINDS, NOT_OPTIONS, Classes
from sft_lightning.config.options import OPTIONS
from sft_lightning.data.base import DATA_MODULES
from sft_lightning.modules.base import VARIANTS
from sft_lightning.networks.base import NETWORKS

REGISTRIES: dict[str, Any] = {"model": VARIANTS, "network": NETWORKS, "data": DATA_MODULES}


def defaults(cls: Any) -> dict[str, Any]:
    """Constructor arguments and their defaults, those behind **kwargs too, as Python sees them."""
    found: dict[str, Any] = {}
    for base in [b for b in cls.__mro__ if "__init__" in vars(b)]:
        parameters = list(signature(base.__init__).parameters.values())
        named = [p for p in parameters if p.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)]
        found = {p.name: p.default for p in named if p.name not in NOT_OPTIONS} | found
        if not any(p.kind == Parameter.VAR_KEYWORD for p in parameters):
            break
    return found


@pytest.mark.parametrize("key", KINDS)
def test_help_names_every_class_with_its_arguments_and_defaults(key: str) -> None:
    home, source = import_module(f"sft_lightning.{KINDS[key][0]}"), Classes(key)
    assert source.names == sorted(n for n, c in REGISTRIES[key].items() if c.__module__.startswith(home.__name__))
    for name in source.names:
        cls, found = getattr(home, name), source.arguments(name)
        expected = defaults(cls)
        assert found.keys() == expected.keys(), name
        for argument, (text, default) in found.items():
            assert text, f"{name}.{argument} has no sentence of help"
            nothing = expected[argument] in (None, Parameter.empty)
            assert default == (
                None if nothing else str(expected[argument]).replace("True", "true").replace("False", "false")
            )
        assert source.summary(name) == " ".join((getdoc(cls) or "").split("\n\n")[0].split())


def test_each_command_has_its_options() -> None:
    fit, test = help_text("fit", ""), help_text("test", "")
    for name, *_ in OPTIONS:
        assert f"--{name} " in fit
        assert (f"--{name} " in test) is (name not in ("select_by", "test_after_fit"))
    assert "--resume" in fit and "--run " in help_text("validate", "")
