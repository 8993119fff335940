"""Limits a trainer to one optimizer step, for variants that solve instead of training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer

from sft_lightning.core.errors import UserError


@contextmanager
def one_step(trainer: Trainer, who: str) -> Iterator[None]:
    """Sets the trainer to one step and the validation after it; restores its settings at the end.

    Ignores epochs, accumulation and similar settings, because all arms of a study share them.

    Raises:
        UserError: limit_train_batches is set, but the solution uses all training samples.
    """
    limit: int | float = trainer.limit_train_batches
    if not (isinstance(limit, float) and limit == 1.0) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise UserError(
            "trainer.limit_train_batches",
            f"{limit} has no effect with {who}, which uses all training samples",
            "set data.init_args.train_fraction or data.init_args.shots_per_class",
        )
    loop = trainer.fit_loop
    wanted: list[tuple[Any, dict[str, Any]]] = [
        (loop, {"max_epochs": 1, "min_epochs": None}),
        (loop.epoch_loop, {"max_steps": -1, "min_steps": None}),
        (trainer, {"limit_train_batches": 1, "accumulate_grad_batches": 1}),
        (trainer, {"val_check_interval": 1.0, "check_val_every_n_epoch": 1}),
    ]
    before = [(held, {name: getattr(held, name) for name in values}) for held, values in wanted]
    try:
        _set(wanted)
        yield
    finally:
        _set(before)


def _set(values: list[tuple[Any, dict[str, Any]]]) -> None:
    for held, named in values:
        for name, value in named.items():
            setattr(held, name, value)
