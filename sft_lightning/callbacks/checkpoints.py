"""Saves `last.ckpt` (the latest) and `best.ckpt` (chosen by validation), and stops a run when a signal asks for it."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from sft_lightning.callbacks.loop_position import Position
from sft_lightning.callbacks.monitored import refuse_unknown
from sft_lightning.callbacks.recorder import RunRecorder, metrics_log
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.signals import SIGNALS, Interrupted
from sft_lightning.evaluation.beside import CALIBRATION
from sft_lightning.runs.directory import RunDirectory

AT_MOST = 0.02
"""Largest share of the time that goes into saves at the ends of epochs without a validation"""


class Checkpoints(
    Checkpoint
):  # Lightning calls Checkpoint classes after all other callbacks, so that it saves their work
    """Saves `last.ckpt` at each validation and at intervals, always between two optimizer steps, and `best.ckpt`.

    A run without validations saves at the ends of epochs instead: at the first, at the last, and at others once training took
    fifty times as long as the save before, so that short epochs are not spent on saving.

    `best.ckpt` is the `last.ckpt` of the validation that the record calls the best. Until then it is the network before
    training, if that competes. After a signal, it saves and stops.

    A checkpoint is made where training can resume exactly (see Position). After an epoch's last step it waits until the
    epoch is closed. If a signal asks to stop before the validation, the checkpoint notes that a validation is due.

    Args:
        run: The run directory that the checkpoints go to.
        recorder: Knows which validation was the best.
        every_n_steps: Optimizer steps between saves, besides those at validations; None turns them off.
        every_minutes: Minutes between saves, likewise.
    """

    def __init__(
        self,
        run: RunDirectory,
        recorder: RunRecorder,
        every_n_steps: int | None = None,
        every_minutes: float | None = None,
    ) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("every_minutes", every_minutes)):
            if value is not None and value <= 0:
                raise UserError(f"save_{name}", f"must be more than 0, got {value}", "set null for no such saves")
        self.run, self.recorder, self.every_n_steps, self.every_minutes = run, recorder, every_n_steps, every_minutes
        self._due = False
        self._saved_step: int | None = None
        self._saved_time = time.monotonic()
        self._took = 0.0  # seconds, the last save

    # ---- when to save ----

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes best.ckpt if the run was killed after it had written last.ckpt."""
        if self.recorder.goes_on:
            self._choose(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses settings with which the run would fail at its first validation, such as a metric that is not measured."""
        every, accumulate = trainer.val_check_batch, trainer.accumulate_grad_batches
        ends = every == trainer.num_training_batches and trainer.check_val_every_n_epoch is not None
        if isinstance(every, int) and every % accumulate and not ends:
            raise UserError(
                "trainer.val_check_interval",
                f"every {every} micro-batches does not end with an optimizer step, which takes {accumulate}",
                "set a multiple of trainer.accumulate_grad_batches",
            )
        by, watch = self.recorder.select_by, self.recorder.monitor
        if by is not None and watch is not None and watch.before and by not in watch.before:
            others = ", ".join(n for n in watch.before if n.startswith(("val/", "retention/", "drift/")))
            of_calibration = by.rpartition("/")[2] in CALIBRATION and not watch.calibration
            raise UserError(
                "select_by",
                f"'{by}' is not measured in this run{nearest(by, watch.before)}",
                "set calibration: true" if of_calibration else f"use one of {others}",
            )
        if watch is not None and watch.before:
            refuse_unknown(trainer, watch.before)
        if self.recorder.start_competes:
            trainer.save_checkpoint(self.run.best)
        self._saved_step, self._saved_time = trainer.global_step, time.monotonic()
        SIGNALS.waits = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not between_steps(trainer):
            return  # a checkpoint here would lose the gradient that the step's micro-batches have accumulated
        stop, due = self._asked(trainer)
        self._due |= due or trainer.global_step == trainer.max_steps
        validates = position(trainer).owed(trainer)
        if stop and (validates or not epoch_is_over(trainer)):
            self.save(trainer)
            raise Interrupted(stop, trainer.global_rank)
        if self._due and not validates and not epoch_is_over(trainer):
            self.save(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leaves a validation when a signal came, as it may take longer than the grace period; the resumed run repeats it."""
        if trainer.state.fn != "fit" or not between_steps(trainer):
            return
        stop, _ = self._asked(trainer)
        if stop:
            self.save(trainer)
            raise Interrupted(stop, trainer.global_rank)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            return
        self._due = True
        if between_steps(trainer) and not epoch_is_over(trainer) and not trainer.should_stop:
            self._save_or_stop(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == trainer.max_steps and not epoch_is_over(trainer) and not trainer.should_stop:
            return  # on_train_batch_end saved it within the epoch, so that a run with more steps can continue the epoch
        fit: Any = trainer.fit_loop
        self._due |= trainer.should_stop or fit.epoch_progress.current.processed == fit.max_epochs
        self._save_or_stop(trainer, unvalidated=trainer.limit_val_batches == 0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        SIGNALS.waits = False
        if self._due and trainer.should_stop:  # the validation that a resumed run began with ended it
            self.save(trainer)
        if SIGNALS.asked is not None:
            raise Interrupted(SIGNALS.asked, trainer.global_rank)

    def _save_or_stop(self, trainer: Trainer, unvalidated: bool = False) -> None:
        stop, due = self._asked(trainer, unvalidated)
        if stop or due or self._due:
            self.save(trainer)
        if stop:
            raise Interrupted(stop, trainer.global_rank)

    def _asked(self, trainer: Trainer, unvalidated: bool = False) -> tuple[int, bool]:
        """(signal or 0, whether a save is due), agreed by all ranks, as a signal may have reached only one of them.

        `unvalidated`: an epoch ended without a validation.
        """
        signum, since = SIGNALS.asked or 0, time.monotonic() - self._saved_time
        due = self.every_minutes is not None and since >= 60 * self.every_minutes
        due |= unvalidated and since >= self._took / AT_MOST
        if trainer.world_size > 1:
            flags = torch.tensor([float(signum), float(due)], device=trainer.strategy.root_device)
            agreed: torch.Tensor = trainer.strategy.reduce(flags, reduce_op="max")
            signum, due = int(agreed[0]), bool(agreed[1])
        steps = trainer.global_step - (self._saved_step or 0)
        return signum, due or (self.every_n_steps is not None and steps >= self.every_n_steps)

    # ---- how to save ----

    def save(self, trainer: Trainer) -> None:
        """Writes last.ckpt, and links it as best.ckpt if the last validation was the best."""
        if (log := metrics_log(trainer)) is not None:
            log.sync()
        began = time.monotonic()
        trainer.save_checkpoint(self.run.last)
        self._choose(trainer)
        self._due, self._saved_step, self._saved_time = False, trainer.global_step, time.monotonic()
        self._took = self._saved_time - began

    def _choose(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self.recorder.is_best:
            link(self.run.last, self.run.best)
        self.recorder.is_best = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        SIGNALS.waits = isinstance(exception, Interrupted)  # after an error a signal may end the run at once


def link(source: Path, target: Path) -> None:
    """Makes `target` a hard link to `source`, atomically; a copy if the file system has no links."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as copy:
                os.fsync(copy.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def position(trainer: Trainer) -> Position:
    """The trainer's Position callback, which every SFTModule adds."""
    return next(c for c in trainer.callbacks if isinstance(c, Position))  # type: ignore[attr-defined]


def between_steps(trainer: Trainer) -> bool:
    """Whether no gradient is being accumulated."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def epoch_is_over(trainer: Trainer) -> bool:
    """Whether the epoch's last batch was trained."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()
