"""What a task is: its loss as a sum over items, its metrics, how its outputs are read.

An *item* is one row of `Output.logits`: a sample in classification, a supervised token in language modelling. The
network returns rows only for items that count, so losses, metrics and anchors never see padding or fillers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.core.structures import TaskInfo


def at_least_single(logits: Tensor) -> Tensor:
    """Logits in single precision, or double where they are: losses are never summed in half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class TaskMetric(NamedTuple):
    """A metric of a task, declared once: the facts go into `run.json`, where everyone reads them."""

    better: str
    """'max' or 'min'"""
    unit: str
    """`share` of what is counted, `nats` and the like; empty for a plain number"""
    make: Callable[[TaskInfo], Metric]


class Task(ABC):
    """One file per task. `info` says which; nothing else is kept."""

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, TaskMetric]]
    """All metrics that the data may ask for, by name."""
    default_metrics: ClassVar[Sequence[str]]
    """Names of those that are measured where the data asks for none; the first is the primary one."""
    loss_unit: ClassVar[str] = ""
    """Of the mean loss over items."""

    def __init__(self, info: TaskInfo) -> None:
        self.info = info

    @classmethod
    def metric_info(cls, name: str) -> MetricInfo | None:
        """What is known of 'loss' or of one of the task's metrics; None for other names."""
        if name == "loss":
            return MetricInfo("loss", "min", cls.loss_unit)
        found = cls.metrics.get(name)
        return None if found is None else MetricInfo(name, found.better, found.unit)

    @property
    def metric_names(self) -> list[str]:
        """Of the metrics that are measured."""
        return list(self.info.metrics or self.default_metrics)

    @property
    def primary(self) -> MetricInfo:
        """The metric that selects checkpoints, and whose loss on the source task is its forgetting."""
        name = self.metric_names[0]
        self._metric(name)
        found = self.metric_info(name)
        assert found is not None
        return found

    def make_metrics(self) -> dict[str, Metric]:
        """One meter for each metric that is measured."""
        return {name: self._metric(name).make(self.info) for name in self.metric_names}

    def _metric(self, name: str) -> TaskMetric:
        if name not in self.metrics:
            raise UserError(
                f"task '{self.name}' has no metric '{name}'{nearest(name, self.metrics)}; it has {', '.join(self.metrics)}"
            )
        return self.metrics[name]

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
