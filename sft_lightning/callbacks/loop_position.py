"""Saves the position within an epoch in each checkpoint, so that training resumes exactly there."""

import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loops.fit_loop import RestartStage as Fit
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.training_epoch_loop import RestartStage as Epoch

from sft_lightning.data.base import SFTDataModule

KEY = "position"
EPOCH_LOOP = "epoch_loop."


class Position(Callback):
    """Saves the position in the epoch, in optimizer steps, and restores it.

    Lightning restores its loops' counters and guesses from them where the checkpoint was made: after a batch, during or
    after a validation, at an epoch's end. Some guesses are wrong (a due validation is skipped, an epoch's last batch is
    trained twice). This callback saves the position instead, and sets the counters from it:

    `epoch`: finished epochs; `steps`: optimizer steps done in the unfinished one; `batches`, `accumulate`, `ranks`: the
    same in micro-batches, and how steps were split; `validate`: the validation due after the last step is not done yet;
    `stop`: training was to end early. Steps count, not micro-batches, because a resumed run may split the work otherwise.
    A checkpoint must be made between two steps: one that a user's callback makes within a step loses the gradient that its
    micro-batches have accumulated.
    """

    def __init__(self) -> None:
        self._validated_at: int | None = None  # micro-batches trained in the whole run
        self._taken: dict[str, Any] | None = None

    # ---- what is saved ----

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._validated_at = trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = self.where(trainer)

    def where(self, trainer: Trainer) -> dict[str, Any]:
        """The position, as plain values."""
        epochs: Any = trainer.fit_loop.epoch_progress.current
        progress, accumulate = trainer.fit_loop.epoch_loop.batch_progress, trainer.accumulate_grad_batches
        place = {
            "epoch": epochs.processed,
            "steps": 0,
            "batches": 0,
            "accumulate": accumulate,
            "ranks": trainer.world_size,
            "validate": False,
            "stop": bool(trainer.should_stop),
        }
        if epochs.ready != epochs.processed:  # an epoch is open
            done: int = progress.current.processed  # type: ignore[attr-defined]
            place |= {"steps": -(-done // accumulate), "batches": done, "validate": self.owed(trainer)}
        return place

    def owed(self, trainer: Trainer) -> bool:
        """Whether a validation is due after the last micro-batch and not done yet."""
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        if fetcher is None or self._validated_at == loop.batch_progress.total.ready:
            return False
        return bool(loop._should_check_val_fx(fetcher))

    # ---- how it is restored ----

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        place = checkpoint.get(KEY)
        if place is None or trainer.state.fn != "fit":
            return
        self._taken = place = dict(place)
        if (place["accumulate"], place["ranks"]) != (trainer.accumulate_grad_batches, trainer.world_size):
            place["batches"] = place["steps"] * trainer.accumulate_grad_batches
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, SFTDataModule):
            data.resume_at(place["epoch"], place["batches"])
            warnings.filterwarnings("ignore", message=".*your dataloader is\n? ?not resumable.*")  # Position resumes it
        set_counters(checkpoint["loops"]["fit_loop"], place)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Corrects the state that Lightning derives from the counters, and runs the validation that was due."""
        place, self._taken = self._taken, None
        if place is None:
            return
        fit, loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
        fit._restart_stage = Fit.RESTARTED_MID_EPOCH if place["batches"] else Fit.NONE
        _Loop.restarting.fset(fit, bool(place["batches"]))  # type: ignore[attr-defined]
        loop._batches_that_stepped = trainer.global_step
        if place["batches"]:
            loop._restart_stage = Epoch.RESTARTED_ON_LAST
            if (
                place["batches"] >= trainer.num_training_batches
            ):  # more if the steps were split otherwise and the last was smaller
                loop.batch_progress.is_last_batch = True
                now: Any = loop.batch_progress.current
                now.ready = now.started = now.processed = now.completed = int(trainer.num_training_batches)
            assert fit._data_fetcher is not None
            due = loop._should_check_val_fx(fit._data_fetcher)
            if place["validate"]:
                validate_now(trainer)
                if trainer.should_stop and fit._can_stop_early:  # the loop ends here without closing the epoch
                    fit.epoch_progress.increment_processed()
                    fit.epoch_progress.increment_completed()
            if due:  # Lightning skips the validation and counts the step again
                loop._batches_that_stepped -= 1
        trainer.should_stop = trainer.should_stop or place["stop"]  # the validation above may have set it too


def set_counters(loops: dict[str, Any], place: dict[str, Any]) -> None:
    """Rewrites the loops' state in a checkpoint so that all counters agree: `batches` of epoch `epoch` are trained."""
    epoch, batches = place["epoch"], place["batches"]
    begun = epoch + (1 if batches else 0)
    counts = {"ready": begun, "started": begun, "processed": epoch, "completed": epoch}
    loops["epoch_progress"] = {**loops["epoch_progress"], "total": dict(counts), "current": dict(counts)}
    progress = loops[f"{EPOCH_LOOP}batch_progress"]
    total = progress["total"]["processed"]
    progress["total"] = dict.fromkeys(progress["total"], total)
    progress["current"] = dict.fromkeys(progress["current"], batches)
    progress["is_last_batch"] = False
    validation = loops[f"{EPOCH_LOOP}val_loop.batch_progress"]
    for which in ("total", "current"):
        validation[which] = dict.fromkeys(validation[which], 0)
    validation["is_last_batch"] = False


def validate_now(trainer: Trainer) -> None:
    """Validates as the training loop does between two batches."""
    loop = trainer.fit_loop.epoch_loop
    first = trainer._logger_connector._first_loop_iter
    trainer.validating = True
    loop.val_loop.restarting = False
    loop.val_loop.run()
    trainer.training = True
    trainer._logger_connector._first_loop_iter = first
    loop.val_loop._has_run = False
