"""What EarlyStopping, ModelCheckpoint and their like watch: a metric that there is, and the right way round."""

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
    """Fills in `mode` of callbacks in a config by their `monitor`; one line for each that changes.

    Args:
        callbacks: `trainer.callbacks` of the config, parsed; `mode` is changed in place.
        mode_is_written: The user wrote a `mode` for some callback: then each must be right.

    Raises:
        UserError: a mode that was written contradicts its metric.
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
    """Fills in the modes, and says so on stderr."""
    for line in settle_modes(callbacks, mode_is_written):
        if not silent:
            print(f"sft-lightning: note: {line}", file=sys.stderr, flush=True)


def default_mode(class_path: str) -> Any:
    """The mode of a callback class that is given none."""
    module, _, name = class_path.rpartition(".")
    parameter = signature(getattr(import_module(module), name)).parameters.get("mode")
    return None if parameter is None else parameter.default


def refuse_wrong_modes(callbacks: Iterable[Any]) -> None:
    """Raises UserError for the first callback that watches one of our metrics the wrong way round."""
    for callback in callbacks:
        metric, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        right = direction(metric) if isinstance(metric, str) and mode in WORDS else None
        if right is not None and right != mode:
            raise contradiction(type(callback).__name__, metric, mode, right)


def contradiction(name: str, metric: Any, mode: Any, right: str) -> UserError:
    """The error for a mode that is the wrong way round."""
    return UserError(
        "trainer.callbacks",
        f"{name}: mode {mode}, and {WORDS[right]} {metric} is better",
        f"set mode {right}, or leave it out",
    )


def refuse_unknown(trainer: Trainer, measured: Iterable[str]) -> None:
    """Raises UserError where a callback watches a metric that this run will not have.

    Classes of the user's own may log metrics of any name; then only names like ours are looked at.

    Args:
        trainer: At the start of training.
        measured: Names of all that is measured at a validation.
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
            f"{type(callback).__name__}: monitor '{metric}' is not measured while this run trains{nearest(metric, known)}; "
            f"there are {', '.join(known)}",
        )
