"""Resolving configs as fit would, without running anything: the parser is built once and parses many."""

from typing import Any

import yaml
from jsonargparse import ArgumentError

from sft_lightning.callbacks.monitored import settle_modes
from sft_lightning.cli.fit import NOT_SAVED, SFTCLI, quieten, spelled
from sft_lightning.cli.options import OPTIONS
from sft_lightning.config import given
from sft_lightning.config.files import allow_on_as_key
from sft_lightning.config.parser_errors import explain
from sft_lightning.config.validation import check_settings
from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError


class ParserAlone(SFTCLI):
    """The CLI up to its parser."""

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = parser.get_defaults(skip_validation=True)

    def _add_instantiators(self) -> None: ...

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _set_seed(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


class Resolver:
    """From overlays to the resolved config that `fit` would write."""

    def __init__(self) -> None:
        quieten()
        allow_on_as_key()
        cli = ParserAlone(["fit"], None)  # type: ignore[arg-type]
        self.parser = cli._parser("fit")
        self.links = given.links_of(self.parser)
        self.keys = {getattr(a, "dest", "") for a in self.parser._actions}

    def __call__(self, layers: list[dict[str, Any]]) -> dict[str, Any]:
        """Later layers win; arguments of a class that a later layer replaced are dropped where the new one has none such."""
        arguments = []
        for layer in layers:
            given.refuse_linked(given.from_mapping(layer), self.links)
            if layer:
                arguments += ["--config", yaml.safe_dump(layer, sort_keys=False, allow_unicode=True)]
        mode = any(given.names(given.from_mapping(layer), "trainer.callbacks", "mode") for layer in layers)
        return self._resolved(arguments, mode)

    def parsed(self, arguments: list[str]) -> dict[str, Any]:
        """Of options as on fit's command line."""
        written = list(given.from_arguments(arguments))
        given.refuse_linked(written, self.links)
        return self._resolved(arguments, given.names(written, "trainer.callbacks", "mode"))

    def _resolved(self, arguments: list[str], mode_is_written: bool) -> dict[str, Any]:
        try:
            settings = self.parser.parse_args(arguments)
        except ArgumentError as error:
            raise UserError(explain(error, self.keys)) from None
        redaction.learn(settings)
        redaction.refuse_left_out(settings)
        check_settings(settings, {name: kind for name, kind, *_ in OPTIONS})
        settle_modes(settings.trainer.get("callbacks"), mode_is_written)  # the point's config says them
        settings = spelled(settings.clone())
        for name in NOT_SAVED:
            settings.pop(name, None)
        return dict(yaml.safe_load(self.parser.dump(settings, skip_none=False, skip_validation=True)))
