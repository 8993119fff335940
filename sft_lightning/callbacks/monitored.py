"""Checks the `monitor` and `mode` of callbacks such as EarlyStopping: the metric must exist, and the direction be right."""

import sys
from collections.abc import Iterable
from importlib import import_module
from inspect import signature
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.metric_info import GAUGES
from sft_lightning.evaluation.known_metrics import direction

MEASURED = ("val/", "retention/", "drift/")
OF_TRAINING = tuple(name for name in GAUGES if name.startswith("train/"))
OF_LIGHTNING = ("step", "epoch")
OURS = ("sft_lightning.", "lightning.")
WORDS = {"max": "more", "min": "less"}


def settle_modes(callbacks: Any, mode_is_written: bool) -> list[str]:
    """Sets `mode` of callbacks in a config to fit their `monitor`; returns one line for each that changes.

    Args:
        callbacks: `trainer.callbacks` of the config, parsed; `mode` is changed in place.
        mode_is_written: The user wrote a `mode` for some callback; then each mode must be right.

    Raises:
        UserError: The user wrote a mode that contradicts its metric.
    """
    lines = []
    for held in callbacks if isinstance(callbacks, list) else [callbacks]:
        arguments = held.get("init_args") if isinstance(held, Namespace) else None
        if not isinstance(arguments, Namespace) or "mode" not in arguments or "monitor" not in arguments:
            continue
        name, right = str(held.class_path).rpartition(".")[2], direction(str(arguments.monitor))
        if right is None or right == arguments.mode or arguments.mode not in WORDS:
            continue
        if mode_is_written or arguments.mode != default_mode(held.class_path):
            raise contradiction(name, arguments.monitor, arguments.mode, right)
        arguments.mode = right
        lines.append(f"trainer.callbacks: {name} takes mode {right}: {WORDS[right]} {arguments.monitor} is better")
    return lines


def say_modes(callbacks: Any, mode_is_written: bool, silent: bool = False) -> None:
    """Does `settle_modes`, and prints its lines on stderr."""
    for line in settle_modes(callbacks, mode_is_written):
        if not silent:
            print(f"sft-lightning: note: {line}", file=sys.stderr, flush=True)


def default_mode(class_path: str) -> Any:
    """The default `mode` of a callback class; None if it has no such argument."""
    module, _, name = class_path.rpartition(".")
    parameter = signature(getattr(import_module(module), name)).parameters.get("mode")
    return None if parameter is None else parameter.default


def refuse_wrong_modes(callbacks: Iterable[Any]) -> None:
    """Raises UserError for the first callback whose mode contradicts its metric."""
    for callback in callbacks:
        metric, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        right = direction(metric) if isinstance(metric, str) and mode in WORDS else None
        if right is not None and right != mode:
            raise contradiction(type(callback).__name__, metric, mode, right)


def contradiction(name: str, metric: Any, mode: Any, right: str) -> UserError:
    """The error for a mode that contradicts its metric."""
    return UserError(
        "trainer.callbacks",
        f"{name} has mode {mode}, but {WORDS[right]} {metric} is better",
        f"set mode {right}, or leave it out",
    )


def refuse_unknown(trainer: Trainer, measured: Iterable[str]) -> None:
    """Raises UserError if a callback monitors a metric that this run will not have.

    If the user's own classes may log further metrics, only names that look like ours are checked.

    Args:
        trainer: At the start of training.
        measured: Names of all metrics that a validation measures.
    """
    known = [*(n for n in measured if n.startswith(MEASURED)), *OF_TRAINING]
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    foreign = any(not type(c).__module__.startswith(OURS) for c in [*callbacks, trainer.lightning_module])
    for callback in callbacks:
        metric = getattr(callback, "monitor", None)
        if not isinstance(metric, str) or metric in known or metric in OF_LIGHTNING:
            continue
        if foreign and not metric.startswith((*MEASURED, "train/", "test/")):
            continue
        raise UserError(
            "trainer.callbacks",
            f"{type(callback).__name__} monitors '{metric}', which is not measured in training{nearest(metric, known)}",
            f"use one of {', '.join(known)}",
        )
