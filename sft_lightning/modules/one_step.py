"""A trainer that takes one optimizer step, whatever it was set to: for variants that solve."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Trainer

from sft_lightning.core.errors import UserError


@contextmanager
def one_step(trainer: Trainer, who: str) -> Iterator[None]:
    """Leaves one step, and the validation after it; puts the trainer's settings back at the end.

    In a study all arms share the trainer's settings, so epochs, accumulation and the like are passed over.

    Raises:
        UserError: limit_train_batches, which would say that not all training samples count.
    """
    limit: int | float = trainer.limit_train_batches
    if not (isinstance(limit, float) and limit == 1.0) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise UserError(
            "trainer.limit_train_batches",
            f"{who} is solved on all training samples, got {limit}",
            "set data.train_fraction or data.shots_per_class",
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
