"""Times the first steps of a fit and then ends it, to plan a study within a time budget."""

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from sft_lightning.data.base import SFTDataModule
from sft_lightning.runs.directory import write_atomic

FEWEST_STEPS, MOST_STEPS = 3, 50
"""Steps of a timed fit. The first step includes warming up; more than the most add no information."""


class StepTimer(Callback):
    """Writes seconds of each optimizer step and of a validation, and stops training after enough steps.

    Args:
        seconds: Wall time after which the fit stops; it makes at least FEWEST_STEPS steps.
        file: JSON file for the figures.
    """

    def __init__(self, seconds: float, file: str) -> None:
        self.seconds, self.file = seconds, Path(file)
        self.began = self.last = time.perf_counter()
        self.steps: list[float] = []
        self.validation = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.steps:  # since on_train_start, the untrained network was measured, which is one validation
            self.validation = time.perf_counter() - self.last
        self.last = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":  # CUDA returns before its work is done
            torch.cuda.synchronize()
        now = time.perf_counter()
        if trainer.global_step > len(self.steps):
            self.steps.append(now - self.last)
            self.last = now
        enough = len(self.steps) >= MOST_STEPS or now - self.began > self.seconds
        if enough and len(self.steps) >= FEWEST_STEPS:
            trainer.should_stop = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        figures = {"steps": self.steps, "validation_s": self.validation, "validated": validated(trainer)}
        write_atomic(self.file, json.dumps(figures) + "\n")


def validated(trainer: L.Trainer) -> int:
    """Samples of one validation under the trainer's limit: those of the target and, if there is any, of source data."""
    source = getattr(trainer.lightning_module, "source", None)
    return sum(
        rows_within(trainer.limit_val_batches, len(data.splits["val"]), data.eval_batch_size or data.batch_size)
        for data in (getattr(trainer, "datamodule", None), source and source.data)
        if isinstance(data, SFTDataModule) and "val" in data.splits
    )


def rows_within(limit: int | float | None, rows: int, batch: int) -> int:
    """Number of rows that a limit on batches leaves: a number of batches (int) or a share (float)."""
    if limit is None or isinstance(limit, bool):
        return rows
    return min(rows, limit * batch) if isinstance(limit, int) else round(rows * limit)
