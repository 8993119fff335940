"""What the user sets of the trainer with `--set trainer.NAME=VALUE`: a fit is planned, and said, to have that length."""

from math import ceil
from typing import Any

from sft_lightning.autoconfig.recipe import VALIDATIONS, Length, times_within
from sft_lightning.core.errors import UserError

LENGTHS = ("max_epochs", "max_steps", "limit_train_batches", "accumulate_grad_batches")
WHEN = ("val_check_interval", "check_val_every_n_epoch")
"""Settings that say when a fit validates"""


def with_settings(run: Length, samples: int, said: dict[str, Any]) -> Length:
    """The length of a run with the user's settings of the trainer, which the study file sets once more.

    Of epochs and steps the user may set one or both; a fit ends with the first. What the user leaves open is planned: steps
    alone have as many epochs as they need, and a fit with another length is validated about VALIDATIONS times.

    Args:
        run: The planned length.
        samples: Labelled samples to train on.
        said: Settings of the trainer, of which those that change the plan are read.

    Raises:
        UserError: A setting is not a number that Lightning takes.
    """
    given = {name: said[name] for name in (*LENGTHS, *WHEN) if said.get(name) is not None}
    for name, value in given.items():
        check(name, value)
    shown = {"precision": str(said["precision"])} if said.get("precision") is not None else {}
    if not given:
        return Length(run.batch_size, {**run.trainer, **shown}, run.steps, run.validations)
    pieces = given.get("accumulate_grad_batches", 1)
    per_epoch = batches(ceil(samples / run.batch_size), given.get("limit_train_batches"), pieces)
    before = run.trainer.get("max_steps", -1) if "max_epochs" not in given else -1
    most = int(given.get("max_steps", before))
    epochs = int(given.get("max_epochs", -1))
    if epochs < 0:
        epochs = ceil(most / per_epoch) if most > 0 else ceil(run.steps / per_epoch)
    steps = min(most, epochs * per_epoch) if most > 0 else epochs * per_epoch
    when = {name: given[name] for name in WHEN if name in given} or planned(epochs, per_epoch, steps, pieces)
    trainer: dict[str, Any] = {"max_epochs": epochs, **({"max_steps": most} if most > 0 else {}), **when, **shown}
    return Length(run.batch_size, trainer, steps, validations(when, per_epoch, steps, pieces))


def check(name: str, value: Any) -> None:
    """Raises UserError unless a setting is a number above 0, or -1 for a length without a limit. A time is left to the run."""
    if name == "val_check_interval" and isinstance(value, str):
        return
    whole = name not in ("limit_train_batches", "val_check_interval")
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or (value <= 0 and (name not in ("max_epochs", "max_steps") or value != -1)):
        what = f"must be a {'whole ' * whole}number above 0, got {value!r}"
        raise UserError(f"trainer.{name}", what, "set it to one")


def batches(per_epoch: int, limit: Any, pieces: int) -> int:
    """Steps of an epoch with `limit_train_batches`: so many micro-batches, `pieces` of which are a step, or a share."""
    if limit is None:
        return per_epoch
    return max(1, min(per_epoch, limit // pieces) if isinstance(limit, int) else int(per_epoch * limit))


def planned(epochs: int, per_epoch: int, steps: int, pieces: int) -> dict[str, Any]:
    """When to validate: at the end, and about VALIDATIONS times in all. Intervals are in micro-batches, `pieces` a step."""
    if steps == epochs * per_epoch and epochs >= VALIDATIONS:
        every = min((n for n in range(1, epochs + 1) if epochs % n == 0), key=lambda n: abs(epochs / n - VALIDATIONS))
        return {"check_val_every_n_epoch": every}
    if steps == epochs * per_epoch:
        times = times_within(per_epoch, max(1, round(VALIDATIONS / epochs)))
        return {"val_check_interval": pieces * (per_epoch // times)} if times > 1 else {}
    near = range(max(1, steps // (2 * VALIDATIONS)), max(1, 2 * steps // VALIDATIONS) + 1)
    every = min(near, key=lambda n: (steps % n, abs(n - steps / VALIDATIONS)))
    return {"val_check_interval": pieces * every, "check_val_every_n_epoch": None}


def validations(when: dict[str, Any], per_epoch: int, steps: int, pieces: int) -> int:
    """How often a fit validates."""
    every, interval = when.get("check_val_every_n_epoch", 1), when.get("val_check_interval", 1.0)
    if isinstance(interval, str):  # a time, which the run refuses
        return 1
    if every is None:
        return int(steps // max(1, interval // pieces))
    within = per_epoch // max(1, interval // pieces) if isinstance(interval, int) else round(1 / interval)
    return int(steps // per_epoch // every) * max(1, int(within))
