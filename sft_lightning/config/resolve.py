"""From layers of settings to the one resolved config that fit runs and a study's point is."""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from enum import Enum
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from sft_lightning.callbacks.monitored import settle_modes
from sft_lightning.config import given
from sft_lightning.config.options import NOT_SAVED, OPTIONS
from sft_lightning.config.overrides import BLOCKS, merged
from sft_lightning.config.parser import command_parser
from sft_lightning.config.parser_errors import explain
from sft_lightning.config.validation import check_settings
from sft_lightning.core import redaction


def resolve(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The config that `fit` would write for these layers, laid over each other and over all defaults.

    Later layers win. Where a later layer names another class, arguments that this class does not take are dropped.

    Args:
        layers: Nested plain values with the keys of a config of fit.

    Raises:
        UserError: a key that there is not, a value that does not fit, a key that a link overwrites.
    """
    parser, written = command_parser("fit")[0], [list(given.from_mapping(layer)) for layer in layers]
    for keys in written:
        given.refuse_linked(keys, given.links_of(parser))
    with reading(parser):
        settings = laid_over(parser, layers)
    return resolved(parser, settings, any(given.names(keys, "trainer.callbacks", "mode") for keys in written))


def resolve_arguments(arguments: list[str]) -> dict[str, Any]:
    """The same from options as on fit's command line."""
    parser, written = command_parser("fit")[0], list(given.from_arguments(arguments))
    given.refuse_linked(written, given.links_of(parser))
    with reading(parser):
        settings = parser.parse_args(arguments)
    return resolved(parser, settings, given.names(written, "trainer.callbacks", "mode"))


def laid_over(parser: LightningArgumentParser, layers: Iterable[Mapping[str, Any]]) -> Namespace:
    """Parses the layers on top of each other, and the whole with all defaults."""
    settings = parser.get_defaults(skip_validation=True)
    steps = deepcopy(joined(layers))  # the parser writes into what it is given
    for step in steps[:-1]:
        settings = parser.parse_object(step, settings, defaults=False, _skip_validation=True)
    return parser.parse_object(steps[-1], settings)


def joined(layers: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fewer layers with the same outcome: one that sets plain values alone goes into the one below, which saves a parse."""
    steps: list[dict[str, Any]] = []
    for layer in filter(None, layers):
        if steps and joins(steps[-1], layer):
            steps[-1] = merged(steps[-1], dict(layer))
        else:
            steps.append(dict(layer))
    return steps or [{}]


def joins(below: Mapping[str, Any], layer: Mapping[str, Any]) -> bool:
    """Whether to merge two layers key by key says the same as to parse one after the other.

    Not where the upper one names a class or gives a mapping as a value, nor where one of them adds to a list: what that
    does to the layer below, the parser knows.
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
"""Where options, arguments of Trainer and arguments of classes are written"""


def holds_mapping(value: Any) -> bool:
    """Whether a value is a mapping, or a list with one in it."""
    return isinstance(value, dict) or (isinstance(value, list) and any(map(holds_mapping, value)))


class reading:
    """What the parser refuses meanwhile becomes a UserError that names the key."""

    def __init__(self, parser: LightningArgumentParser) -> None:
        self.parser = parser

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ArgumentError):
            raise explain(error, keys_of(self.parser)) from None


def keys_of(*parsers: LightningArgumentParser) -> set[str]:
    """The dotted names of all options."""
    return {getattr(action, "dest", "") for parser in parsers for action in parser._actions}


def check(settings: Namespace, of_old_run: bool = False) -> None:
    """Raises UserError for the first setting that cannot be meant; learns which values are secrets."""
    redaction.learn(settings)
    redaction.refuse_left_out(settings)
    check_settings(settings, {name: kind for name, kind, *_ in OPTIONS}, of_old_run)


def resolved(parser: LightningArgumentParser, settings: Namespace, mode_is_written: bool) -> dict[str, Any]:
    """Checks parsed settings, fills in what follows from others, and gives them as plain values."""
    check(settings)
    settle_modes(settings.trainer.get("callbacks"), mode_is_written)  # the point's config says them
    return as_plain(parser, settings)


def as_plain(parser: LightningArgumentParser, settings: Namespace) -> dict[str, Any]:
    """Parsed settings as nested plain values, as they go into config.yaml."""
    settings = spelled(settings.clone())
    for name in NOT_SAVED:
        settings.pop(name, None)
    return dict(yaml.safe_load(parser.dump(settings, skip_none=False, skip_validation=True)))


def spelled(value: Any) -> Any:
    """Settings with choices of an Enum, which YAML does not know, as they are written."""
    if isinstance(value, Namespace):
        for name, held in vars(value).items():
            setattr(value, name, spelled(held))
        return value
    if isinstance(value, list):
        return [spelled(held) for held in value]
    return value if not isinstance(value, Enum) else str(value.value) if isinstance(value, str) else value.name
