"""Checks settings that the parser accepts but no class can use: null for a value, NaN, arguments without effect."""

import math
import types
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from sft_lightning.callbacks.of_lightning import refuse_arguments, refuse_callbacks
from sft_lightning.config.parser_errors import arguments_of, class_names, kind_of
from sft_lightning.core.errors import UserError, nearest

BASES = ("SFTModule", "Network", "SFTDataModule", "SmallNetwork", "ImageData", "TextData", "TokenData")
LARGEST_SEED = 2**32 - 1  # of numpy
Taken = dict[str, tuple[Any, Any]]
"""Arguments of a class, by name: (annotation, default)."""


def check_settings(settings: Namespace, options: dict[str, Any], of_old_run: bool = False) -> None:
    """Raises UserError for the first key with an invalid value.

    Args:
        settings: A command's parsed configuration.
        options: Name and type of each option of ours.
        of_old_run: The configuration comes from an earlier run. Settings without effect pass, as they did then.
    """
    for name, wanted in options.items():
        if name in settings:
            check_value(name, settings[name], wanted, Parameter.empty)
    seed = settings.get("seed_everything")
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed <= LARGEST_SEED:
        raise UserError("seed_everything", f"must lie between 0 and {LARGEST_SEED}, got {seed!s:.40}")
    for name in ("model", "network", "data"):
        if not isinstance(settings.get(name), Namespace):
            raise UserError(name, "must be given", f"add --config FILE, or --{name} NAME")
    for name in ("model", "network", "data", "retention"):
        held = settings.get(name)
        path = held.get("class_path") if isinstance(held, Namespace) else None
        if isinstance(path, str) and path.rpartition(".")[2] in BASES:  # `network: {}` is parsed as the base class
            raise UserError(
                name,
                f"class_path must name a class, got the base {path.rpartition('.')[2]}",
                f"choose {', '.join(class_names(name))}, or a class of your own",
            )
        check_class(name, held)
    trainer = settings.get("trainer")
    if not isinstance(trainer, Namespace):
        raise UserError("trainer", f"must be a mapping (max_epochs, accelerator, …), got {shown(trainer)}")
    if not of_old_run:
        refuse_ineffective(settings)
        refuse_arguments(vars(trainer))
    taken = taken_by(Trainer)
    for name, value in vars(trainer).items():
        check_value(f"trainer.{name}", value, *taken.get(name, (Any, None)), finite=False)
        for key, held in classes_in(f"trainer.{name}", value):
            check_class(key, held, finite=False)
    for _, held in classes_in("", trainer.get("plugins")):
        if issubclass(class_of(held.class_path), CheckpointIO):
            name = held.class_path.rpartition(".")[2]
            raise UserError(
                "trainer.plugins", f"{name} cannot be used: a run writes its checkpoints itself", "leave it out"
            )
    paths = [] if of_old_run else [held.class_path for _, held in classes_in("", trainer.get("callbacks"))]
    refuse_callbacks(map(class_of, paths))
    for path in paths:
        refuse_own(path)


INEFFECTIVE: list[tuple[str, str, Any, str, Callable[[Any], bool], str]] = [
    ("model", "temperature", 2.0, "distance", lambda held: held == "kl", "distance kl"),
    ("data", "crop_padding", 4, "augment", lambda held: "crop" in (held or []), "augment [crop]"),
    ("retention", "crop_padding", 4, "augment", lambda held: "crop" in (held or []), "augment [crop]"),
]
"""(block, argument, its default, the argument it depends on, whether a value of that one uses it, what to set)"""


def refuse_ineffective(settings: Namespace) -> None:
    """Raises UserError for the first argument of a class that has no effect because of another argument."""
    for block, name, default, other, uses, what in INEFFECTIVE:
        held = settings.get(block)
        given = held.get("init_args") if isinstance(held, Namespace) else None
        if not isinstance(given, Namespace) or name not in given or other not in given:
            continue
        if given[name] != default and not uses(given[other]):
            raise UserError(
                f"{block}.init_args.{name}",
                f"{given[name]} has no effect with {other} {shown(given[other])}",
                f"set {what}, or leave {name} out",
            )


OF_EVERY_RUN = {"EMA": "set model.init_args.ema_decay", "RetentionMonitor": "set retention, the source task's data"}
"""The setting with which a run adds the callback"""
CHOSEN = ("LPFT",)
"""Callbacks of this package that a user chooses"""


def refuse_own(path: str) -> None:
    """Raises UserError for a callback of this package that runs add themselves."""
    module, _, name = path.rpartition(".")
    if module.startswith("sft_lightning.callbacks") and name not in CHOSEN:
        fix = OF_EVERY_RUN.get(name, "leave it out")
        raise UserError("trainer.callbacks", f"{name} is added by each run that needs it", fix)


def class_of(path: str) -> Any:
    """Imports the class of a class_path."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def classes_in(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields (key, value) of a value that names a class, or of each such item of a list."""
    for i, held in enumerate(value if isinstance(value, list) else [value]):
        if isinstance(held, Namespace) and "class_path" in held:
            yield (f"{key}[{i}]" if isinstance(value, list) else key), held


def check_class(key: str, value: Any, finite: bool = True) -> None:
    """Checks the arguments of a class that the configuration names."""
    path = value.get("class_path") if isinstance(value, Namespace) else None
    if not isinstance(path, str):
        return
    module, _, name = path.rpartition(".")
    taken = taken_by(class_of(path)) if module else {}
    given = value.get("init_args")
    for argument, held in vars(given).items() if isinstance(given, Namespace) else ():
        check_value(f"{key}.init_args.{argument}", held, *taken.get(argument, (Any, None)), finite=finite)
    further = value.get("dict_kwargs")
    if further and not any(p.kind == Parameter.VAR_KEYWORD for p in last_signature(path)):
        unknown = next(iter(further))
        raise UserError(key, f"{name} has no argument '{unknown}'{nearest(unknown, arguments_of(path))}")


def last_signature(path: str) -> list[Parameter]:
    """Returns the parameters of the last constructor to which a class passes its **kwargs."""
    parameters: list[Parameter] = []
    for base in class_of(path).__mro__:
        if "__init__" in vars(base) and base is not object:
            parameters = list(signature(base.__init__).parameters.values())
            if not any(p.kind == Parameter.VAR_KEYWORD for p in parameters):
                break
    return parameters


def taken_by(cls: Any) -> Taken:
    """Returns a class's arguments, including those that **kwargs passes to its bases."""
    taken: Taken = {}
    for base in getattr(cls, "__mro__", (cls,)):
        if "__init__" not in vars(base) or base is object:
            continue
        try:
            hints = typing.get_type_hints(base.__init__)
            parameters = signature(base.__init__).parameters
        except (NameError, TypeError, ValueError):
            break
        for name, parameter in parameters.items():
            taken.setdefault(name, (hints.get(name, Any), parameter.default))
        if not any(p.kind == Parameter.VAR_KEYWORD for p in parameters.values()):
            break
    return taken


def check_value(key: str, value: Any, wanted: Any, default: Any, finite: bool = True) -> None:
    """Raises UserError for null if the type does not allow it, for NaN, and for infinite or too large numbers."""
    if value is None and default is not None and not takes_null(wanted):
        raise UserError(key, f"must be {kind_of(wanted)}, got null")
    for name, number in numbers_in(key, value):
        if isinstance(number, int):
            if abs(number) >= 1 << 63:
                raise UserError(name, f"{number!s:.40} is too large: whole numbers must lie below 2^63")
        elif math.isnan(number) or (finite and math.isinf(number)):
            raise UserError(name, f"must be a finite number, got {number}")


def takes_null(wanted: Any) -> bool:
    """Tells whether a type allows null."""
    if wanted in (Any, None, types.NoneType, object) or isinstance(wanted, typing.TypeVar):
        return True
    origin = typing.get_origin(wanted)
    if origin is typing.Literal:
        return None in typing.get_args(wanted)
    return origin in (typing.Union, types.UnionType) and any(takes_null(w) for w in typing.get_args(wanted))


def numbers_in(key: str, value: Any) -> Iterator[tuple[str, float]]:
    """Yields (key, number) for the numbers among plain nested values. Arguments of classes are checked separately."""
    if isinstance(value, float | int):
        yield key, value
    elif isinstance(value, dict):
        for name, held in value.items():
            yield from numbers_in(f"{key}.{name}", held)
    elif isinstance(value, list | tuple):
        for i, held in enumerate(value):
            yield from numbers_in(f"{key}[{i}]", held)


def shown(value: Any) -> str:
    """Writes a value as a config would."""
    return "null" if value is None else str(value)
