"""Accumulates the metrics of a stage batch by batch, and reads them over all batches and ranks."""

import torch
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.tasks.base import Task


class MeanLoss(Metric):
    """Mean over items of a loss that is given as sums, accumulated in double precision if the device supports it.

    A NaN makes the mean NaN, while torchmetrics' MeanMetric leaves such batches out.
    """

    higher_is_better = False
    full_state_update = False
    total: Tensor
    items: Tensor

    def __init__(self) -> None:
        super().__init__()
        dtype = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("total", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("items", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, total: Tensor, items: float) -> None:
        """Adds the loss `total` of `items` items, or of items whose weights sum to that."""
        self.total += total
        self.items += items

    def compute(self) -> Tensor:
        if self.items == 0:
            raise UserError(
                "data",
                "every label is masked, so that there is nothing to measure",
                "check the labels of the validation (or test) split, data.max_length and trainer.limit_val_batches",
            )
        return self.total / self.items


def update_meters(task: Task, meters: dict[str, Metric], output: Output, batch: Batch) -> None:
    """Adds one batch to 'loss' (weighted by items) and to the task's metrics."""
    if not int(batch["count"]):
        return
    meters["loss"].update(*task.loss(output, batch))
    for name, metric in meters.items():
        if name != "loss":
            task.update(metric, output, batch)


def read_meters(meters: dict[str, Metric]) -> dict[str, float]:
    """The values over all batches and ranks; resets the metrics."""
    values: dict[str, float] = {}
    for name, metric in meters.items():
        found = metric.compute()
        values |= {n: float(v) for n, v in (found.items() if isinstance(found, dict) else ((name, found),))}
    for metric in meters.values():
        metric.reset()
    return values
