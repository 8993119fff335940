"""What a task is: its loss as a sum over items, its metrics, how its outputs are read.

An *item* is one row of `Output.logits`: a sample in classification, a supervised token in language modelling. The
network returns rows only for items that count, so losses, metrics and anchors never see padding or fillers.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import TaskInfo


def at_least_single(logits: Tensor) -> Tensor:
    """Logits in single precision, or double where they are: losses are never summed in half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Task(ABC):
    """One file per task. `info` says which; nothing else is kept."""

    name: ClassVar[str]
    metric_makers: ClassVar[dict[str, tuple[Any, str]]]
    """Metric name: (maker taking TaskInfo, 'max' or 'min' is better)."""

    def __init__(self, info: TaskInfo) -> None:
        self.info = info

    @property
    def metric_names(self) -> list[str]:
        return list(self.info.metrics) or self.default_metrics

    @property
    @abstractmethod
    def default_metrics(self) -> list[str]:
        """Metrics when the data names none; the first selects checkpoints."""

    @property
    def primary(self) -> tuple[str, str]:
        """Name of the metric that selects checkpoints, and whether 'max' or 'min' is better."""
        name = self.metric_names[0]
        return name, self.metric_makers[name][1]

    def better(self, metric: str) -> str:
        """'max' or 'min'."""
        return self.metric_makers[metric][1] if metric in self.metric_makers else "min"

    def make_metrics(self) -> dict[str, Metric]:
        made = {}
        for name in self.metric_names:
            if name not in self.metric_makers:
                raise UserError(
                    f"task '{self.name}' has no metric '{name}'{nearest(name, self.metric_makers)}; "
                    f"it has {', '.join(self.metric_makers)}"
                )
            made[name] = self.metric_makers[name][0](self.info)
        return made

    @abstractmethod
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss of `logits[N, C]` and `y[N]` summed over items: a scalar. Zero, with a gradient, for N = 0."""

    def update(self, metric: Metric, logits: Tensor, y: Tensor) -> None:
        """Adds N items to a metric."""
        metric.update(self.predict(logits), y)

    @abstractmethod
    def predict(self, logits: Tensor) -> Tensor:
        """What the metrics compare with `y`, from `logits[N, C]`."""

    def same(self, one: Tensor, other: Tensor) -> Tensor | None:
        """How far two answers `[N, C]` to each item are the same, in [0, 1]: `[N]`. None where answers are values, which are
        never quite the same.
        """
        return None

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor | None:
        """KL(teacher ‖ student) in nats of the answers `[N, C]` to each item: `[N]`. None where answers are values, and no
        probabilities.
        """
        return None

    @abstractmethod
    def rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """One plain dict per item, for predictions.jsonl."""
