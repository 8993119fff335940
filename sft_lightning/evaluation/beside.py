"""Measures more on the batches of an evaluation than the task's own metrics."""

import math
from collections.abc import Collection

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.tasks import Task
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters

CALIBRATION = ("ece", "brier")
"""Metrics of a task that say how well probabilities fit"""


class Beside:
    """Meters of some of a task's metrics.

    Args:
        task: The task.
        names: Names among `task.metrics`.
        device: Where the meters are.
    """

    def __init__(self, task: Task, names: Collection[str], device: torch.device) -> None:
        self.task = task
        self.meters: dict[str, Metric] = {"loss": MeanLoss(), **made(task, names)}
        for meter in self.meters.values():
            meter.to(device)

    def add(self, output: Output, batch: Batch) -> None:
        """Adds a batch."""
        update_meters(self.task, self.meters, output, batch)

    def values(self) -> dict[str, float]:
        """The metrics over all batches and ranks."""
        return {name: value for name, value in read_meters(self.meters).items() if name != "loss"}


def calibration_of(task: Task, device: torch.device) -> Beside | None:
    """Meters of a task's calibration; None if it has no probabilities of classes."""
    names = beside(task)
    return Beside(task, names, device) if names else None


def beside(task: Task) -> list[str]:
    """Names of the metrics of calibration that a task has, and does not measure by itself."""
    return [name for name in CALIBRATION if name in task.metrics and name not in task.metric_names]


def made(task: Task, names: Collection[str]) -> dict[str, Metric]:
    """Meters of some of a task's metrics."""
    return {name: task.metrics[name].make(task.info) for name in names}


def calibration_meters(task: Task) -> dict[str, Metric]:
    """Meters of the calibration that a task does not measure by itself, by name."""
    return made(task, beside(task))


def of_both_heads(task: Task, source: Task | None, device: torch.device) -> Beside | None:
    """Meters of the new head's calibration. Raises UserError if neither it nor the source head has probabilities of classes."""
    meters = calibration_of(task, device)
    if meters is None and (source is None or calibration_of(source, device) is None):
        raise UserError("calibration", f"has no effect, as {task.info.name} has no class probabilities", "leave it out")
    return meters


class Sizes:
    """Counts the samples of each class, for the accuracy that is expected without any knowledge."""

    def __init__(self, classes: int) -> None:
        self.counts = torch.zeros(classes, dtype=torch.int64)

    def add(self, y: Tensor) -> None:
        """Adds the true classes `[N]` of a batch."""
        self.counts += torch.bincount(y.cpu(), minlength=len(self.counts))

    def values(self, accuracy: float) -> tuple[float, float]:
        """(share of the most frequent class, standard error of `accuracy` over samples), over all ranks, which must all call
        this.
        """
        counts = self.counts
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            parts: list[Tensor] = [counts] * dist.get_world_size()
            dist.all_gather_object(parts, counts)
            counts = torch.stack(parts).sum(0)
        n = int(counts.sum())
        if not n:
            return math.nan, math.nan
        return float(counts.max()) / n, math.sqrt(max(0.0, accuracy * (1 - accuracy)) / n)
