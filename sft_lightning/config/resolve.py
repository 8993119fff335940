"""Resolves layers of settings into one config, for fit and for each point of a study."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from enum import Enum
from typing import Any

from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from sft_lightning.callbacks.monitored import settle_modes
from sft_lightning.config import given
from sft_lightning.config.options import NOT_SAVED, OPTIONS
from sft_lightning.config.overrides import BLOCKS, merged
from sft_lightning.config.parser import command_parser
from sft_lightning.config.parser_errors import explain
from sft_lightning.config.validation import check_settings
from sft_lightning.core import plain_yaml, redaction


def resolve(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the config that `fit` would write for these layers, merged in order over all defaults.

    Later layers win. If a later layer names another class, arguments that this class does not take are dropped.

    Args:
        layers: Nested plain values with the keys of a config of fit.

    Raises:
        UserError: A key does not exist, a value does not fit, or a link overwrites a key.
    """
    parser, written = command_parser("fit")[0], [list(given.from_mapping(layer)) for layer in layers]
    for keys in written:
        given.refuse_linked(keys, given.links_of(parser))
    with reading(parser):
        settings = laid_over(parser, layers)
    return resolved(parser, settings, any(given.names(keys, "trainer.callbacks", "mode") for keys in written))


def resolve_arguments(arguments: list[str]) -> dict[str, Any]:
    """Returns the config for the options of a `fit` command line."""
    parser, written = command_parser("fit")[0], list(given.from_arguments(arguments))
    given.refuse_linked(written, given.links_of(parser))
    with reading(parser, arguments):
        settings = parser.parse_args(arguments)
    return resolved(parser, settings, given.names(written, "trainer.callbacks", "mode"))


def laid_over(parser: LightningArgumentParser, layers: Iterable[Mapping[str, Any]]) -> Namespace:
    """Parses the layers on top of each other and of all defaults."""
    settings = parser.get_defaults(skip_validation=True)
    steps = deepcopy(joined(layers))  # the parser modifies its input
    for step in steps[:-1]:
        settings = parser.parse_object(step, settings, defaults=False, _skip_validation=True)
    return parser.parse_object(steps[-1], settings)


def joined(layers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Merges each layer that sets only plain values into the one below. The outcome is the same, with fewer parses."""
    steps: list[dict[str, Any]] = []
    for layer in filter(None, layers):
        if steps and joins(steps[-1], layer):
            steps[-1] = merged(steps[-1], dict(layer))
        else:
            steps.append(dict(layer))
    return steps or [{}]


def joins(below: Mapping[str, Any], layer: Mapping[str, Any]) -> bool:
    """Tells whether merging two layers key by key has the same outcome as parsing one after the other.

    It has not if the upper layer names a class or sets a mapping, or if one of them adds to a list: only the parser knows
    how these change the layer below.
    """
    if any("+" in item.key for item in given.from_mapping(below)):
        return False
    for item in given.from_mapping(layer):
        above, _, name = item.key.rpartition(".")
        if above not in PLACES or name in given.PARTS or "+" in name or holds_mapping(item.value):
            return False
        held: Any = below
        for part in filter(None, above.split(".")):
            held = held.get(part, {})
            if not isinstance(held, dict):
                return False
    return True


PLACES = ("", "trainer", *(f"{block}.init_args" for block in BLOCKS))
"""Keys below which options, arguments of Trainer and arguments of classes are written"""


def holds_mapping(value: Any) -> bool:
    """Tells whether a value is a mapping or a list that holds one."""
    return isinstance(value, dict) or (isinstance(value, list) and any(map(holds_mapping, value)))


class reading:
    """Context in which errors of the parser become UserErrors that name the key."""

    def __init__(self, parser: LightningArgumentParser, arguments: Sequence[str] = ()) -> None:
        self.parser, self.arguments = parser, arguments

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ArgumentError):
            raise explain(error, keys_of(self.parser), self.arguments) from None


def keys_of(*parsers: LightningArgumentParser) -> set[str]:
    """Returns the dotted names of all options."""
    return {getattr(action, "dest", "") for parser in parsers for action in parser._actions}


def check(settings: Namespace, of_old_run: bool = False) -> None:
    """Raises UserError for the first invalid setting, and notes which values are secrets."""
    redaction.learn(settings)
    redaction.refuse_left_out(settings)
    check_settings(settings, {name: kind for name, kind, *_ in OPTIONS}, of_old_run)


def resolved(parser: LightningArgumentParser, settings: Namespace, mode_is_written: bool) -> dict[str, Any]:
    """Checks parsed settings, fills in values that follow from others, and returns plain values."""
    check(settings)
    settle_modes(
        settings.trainer.get("callbacks"), mode_is_written
    )  # silently: the config that is written shows the modes
    return as_plain(parser, settings)


def as_plain(parser: LightningArgumentParser, settings: Namespace) -> dict[str, Any]:
    """Returns parsed settings as nested plain values, as config.yaml stores them."""
    settings = spelled(settings.clone())
    for name in NOT_SAVED:
        settings.pop(name, None)
    return dict(plain_yaml.load_written(parser.dump(settings, skip_none=False, skip_validation=True)))


def spelled(value: Any) -> Any:
    """Replaces Enum values, which YAML cannot store, by the words that the user writes for them."""
    if isinstance(value, Namespace):
        for name, held in vars(value).items():
            setattr(value, name, spelled(held))
        return value
    if isinstance(value, list):
        return [spelled(held) for held in value]
    return value if not isinstance(value, Enum) else str(value.value) if isinstance(value, str) else value.name
