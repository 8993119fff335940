"""Prints a sign of life each minute if there is no progress bar: the current phase, its progress, its speed."""

import threading
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.core.structures import Batch
from sft_lightning.modules.tuned import TunedModule

PREPARING = "preparing data and network"


class Pulse(Callback):
    """Prints a line when nothing was printed for a minute.

    A thread watches the clock, since a single call may take long, such as reading a data set or loading weights. The hooks
    only note the run's progress. The loss is read twice a minute, as reading it waits for the device.
    """

    EVERY = 60.0
    """Seconds of silence before a line"""

    def __init__(self) -> None:
        self._began = self._said = self._read = time.monotonic()
        self._doing, self._done, self._of = PREPARING, 0, 0
        self._mark = (0, self._began)  # (done, time) at the last line, for the speed
        self._steps = 0.0  # optimizer steps of the whole run
        self._loss: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="pulse")

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, so that nothing more is printed."""
        self._over.set()

    def heard(self) -> None:
        """Notes that something else was printed, and starts the next minute."""
        self._said = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(max(0.01, self._said + self.EVERY - time.monotonic())):
            if time.monotonic() - self._said >= self.EVERY:
                print(self.line(), flush=True)
                self.heard()

    def line(self) -> str:
        """`…          3 min: training, step 120 of 400, 2.1 a second, train/loss_task 0.4132`"""
        now = time.monotonic()
        parts = [f"{'…':<11}{spoken(now - self._began)}: {self._doing}"]
        if self._of:
            unit = "step" if self._doing == "training" else "batch"
            parts.append(f"{unit} {self._done} of {self._of}")
            done, since = self._done - self._mark[0], now - self._mark[1]
            if done > 0:
                parts.append(f"{done / since:.2g} a second")
        if self._loss is not None and self._doing == "training":
            parts.append(f"train/loss_task {self._loss:.4f}")
        self._mark = (self._done, now)
        return ", ".join(parts)

    def _now(self, doing: str, done: int, of: float) -> None:
        if doing != self._doing:
            self._mark = (done, time.monotonic())
        self._doing, self._done, self._of = doing, done, int(of) if 0 < of < float("inf") else 0

    # ---- progress of the run ----

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._now(PREPARING, 0, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = trainer.estimated_stepping_batches
        self._now("measuring before training", 0, 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if self._doing != "training":
            self._now("training", trainer.global_step, self._steps)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        self._done = trainer.global_step
        now = time.monotonic()
        if now - self._read >= 0.5 * self.EVERY and isinstance(pl_module, TunedModule) and pl_module.stepped:
            self._read = now
            sums, _, count = pl_module.stepped
            self._loss = float(sums[0]) / max(count, 1)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches = trainer.num_val_batches
        self._now("validating", 0, sum(batches) if isinstance(batches, list) else batches)

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._done += 1

    def on_test_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._done += 1

    def on_predict_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self._done += 1

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now("measuring what is kept", 0, 0)

    on_test_epoch_end = on_validation_epoch_end

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now("saving and exporting", 0, 0)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now("saving", 0, 0)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now("testing", 0, sum(trainer.num_test_batches))

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now("predicting", 0, sum(trainer.num_predict_batches))


def spoken(seconds: float) -> str:
    """`3 min`; `40 s` below two minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
