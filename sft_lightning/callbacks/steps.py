"""Makes Lightning count optimizer steps, not micro-batches, in limits of training and names of checkpoints."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import SFTDataModule
from sft_lightning.modules.step_values import show


class Steps(Callback):
    """Turns the trainer's limit on training from optimizer steps into micro-batches, which Lightning counts.

    A whole number n means n optimizer steps of an epoch, a share s means int(s × steps of an epoch): 3 with batch_size 20
    trains 60 samples an epoch with and without accumulation, on one process or eight.

    ModelCheckpoint names its files by the metrics `step` and `epoch` if there are some, and validation logs them. This
    callback keeps them up to date between validations.
    """

    def __init__(self) -> None:
        self._given: Any = None
        self._made: Any = None
        self._names_files = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Sets the limit after the data is loaded and before Lightning asks for batches."""
        self._names_files = any(isinstance(c, ModelCheckpoint) for c in trainer.callbacks)  # type: ignore[attr-defined]
        accumulate, limit = trainer.accumulate_grad_batches, trainer.limit_train_batches
        if stage != "fit" or accumulate == 1:
            return
        if self._made is not None and limit == self._made:  # another fit of the same trainer
            limit = self._given
        self._given = limit
        if isinstance(limit, int):
            self._made = limit * accumulate
        elif limit in (0.0, 1.0):
            self._made = limit
        else:
            self._made = self._of_share(trainer, float(limit)) * accumulate
        trainer.limit_train_batches = self._made

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._names_files:
            show(trainer, {"step": float(trainer.global_step), "epoch": float(trainer.current_epoch)}, pl_module.device)

    def _of_share(self, trainer: Trainer, share: float) -> int:
        """Optimizer steps in a share of an epoch."""
        name = "overfit_batches" if trainer.overfit_batches else "limit_train_batches"  # type: ignore[attr-defined]
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SFTDataModule):
            raise UserError(
                f"trainer.{name}",
                f"a share of {share} needs the length of an epoch, which only data modules of sft_lightning know",
                "give a number of optimizer steps",
            )
        steps = -(-len(data.splits["train"]) // data.batch_size)
        if not int(steps * share):
            raise UserError(
                f"trainer.{name}",
                f"{share} of an epoch of {steps} optimizer steps is less than one step",
                f"give at least {1 / steps:.3g}, or a number of steps",
            )
        return int(steps * share)
