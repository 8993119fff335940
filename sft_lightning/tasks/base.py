"""Defines tasks: a loss as a sum over items, metrics, and the meaning of outputs.

The loss is a sum, and a metric an average, over *items*: samples in classification, supervised tokens in language modelling.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.core.pictured import Pictured
from sft_lightning.core.registry import Registry
from sft_lightning.core.structures import Batch, Items, Loss, Output, TaskInfo


def at_least_single(logits: Tensor) -> Tensor:
    """Logits in at least single precision, as losses must not be summed in half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class TaskMetric(NamedTuple):
    """A metric of a task. Its facts are declared only here, and other code reads them from `run.json`."""

    better: str
    """'max' or 'min'"""
    unit: str
    """Unit of a value, such as `share` or `nats`; empty for a plain number"""
    make: Callable[[TaskInfo], Metric]


class Said(NamedTuple):
    """What an output says of one sample, in a form to read."""

    said: Any
    """A text, or a list with one text for each word"""
    right: Any = None
    """The right answer in the same form; None if it is unknown"""
    score: float | None = None
    """How much of it is right, in [0, 1]; None if that is unknown"""
    form: str = "text"
    """'text', 'labels' (a comma between), 'tags' (one for each word), 'answer' (a part of the sample's text) or 'choice' (the
    place of one of several)
    """
    found: Pictured | None = None
    """The same as a picture shows it, for what is found in an image"""
    truth: Pictured | None = None
    """The right answer as a picture shows it; None if it is unknown"""
    start: int | None = None
    """Where an answer begins in the sample's text, in characters; None if the text lacks it"""


TASKS: Registry["Task"] = Registry("task")


class Task(ABC):
    """A kind of prediction. Each task is a class in a file of its own, and is registered when it is defined.

    Args:
        info: The task's outputs, labels and metrics, as plain values.
        label_smoothing: Share of each label spread evenly over the classes, in [0, 1), for tasks that support it.
    """

    name: ClassVar[str]
    metrics: ClassVar[Mapping[str, TaskMetric]]
    """All metrics that the data may ask for, by name."""
    default_metrics: ClassVar[Sequence[str]]
    """Names of the metrics that are measured if the data names none; the first is the primary one."""
    loss_unit: ClassVar[str] = ""
    """Unit of the mean loss over items."""
    has_classes: ClassVar[bool] = False
    """Whether each sample has one of C classes and `logits[N, C]` go through softmax, so that argmax is the prediction:
    confusions are counted, and labelled subsets are drawn by class"""
    one_item_per_sample: ClassVar[bool] = True
    """Whether a sample is one row of the output, so that predictions can be listed by sample"""
    compares_places: ClassVar[bool] = False
    """Whether many places of each sample are compared with the teacher's, so that few samples say much"""
    smooths_labels: ClassVar[bool] = False

    def __init__(self, info: TaskInfo, label_smoothing: float = 0.0) -> None:
        self.info, self.label_smoothing = info, label_smoothing
        if label_smoothing and not self.smooths_labels:
            raise UserError("model.label_smoothing", f"{info.name} has no classes to smooth over", "leave it at 0")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in vars(cls):
            TASKS.add(cls.name, cls)

    @classmethod
    def metric_info(cls, name: str) -> MetricInfo | None:
        """Direction and unit of 'loss' or of one of the task's metrics; None for other names."""
        if name == "loss":
            return MetricInfo("loss", "min", cls.loss_unit)
        found = cls.metrics.get(name)
        return None if found is None else MetricInfo(name, found.better, found.unit)

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics that are measured."""
        return list(self.info.metrics or self.default_metrics)

    @property
    def primary(self) -> MetricInfo:
        """The metric that selects checkpoints, and whose decline on the source task is forgetting."""
        name = self.metric_names[0]
        self._metric(name)
        found = self.metric_info(name)
        assert found is not None
        return found

    def make_metrics(self, final: bool = False) -> dict[str, Metric]:
        """Meters of the metrics that are measured, by name. A meter whose `compute` returns a dict measures several, under
        the dict's names. A task may measure more in a test (`final`) than in a validation.
        """
        return {name: self._metric(name).make(self.info) for name in self.metric_names}

    def _metric(self, name: str) -> TaskMetric:
        if name not in self.metrics:
            raise UserError(
                "metrics",
                f"task '{self.name}' has no metric '{name}'{nearest(name, self.metrics)}",
                f"use one of {', '.join(self.metrics)}",
            )
        return self.metrics[name]

    # ---- what a task does with a batch ----

    def select(self, batch: Batch) -> Tensor | None:
        """Mask of the rows or positions of the features that the heads compute: bool `[B]` or `[B, T]`; None for all."""
        return None

    @abstractmethod
    def loss(self, output: Output, batch: Batch) -> Loss:
        """The loss summed over items, a scalar with gradient (0 for no items), and the number of items."""

    @abstractmethod
    def update(self, metric: Metric, output: Output, batch: Batch) -> None:
        """Adds a batch to a metric."""

    @abstractmethod
    def decode(self, output: Output, batch: Batch) -> list[dict[str, Any]]:
        """One plain dict per sample (without fillers), in the batch's order, for predictions.jsonl."""

    def said(self, output: Output, batch: Batch) -> list[Said] | None:
        """What the outputs say of each sample (without fillers), to compare networks by sample; `y` may be absent. None if that
        cannot be read, and for tasks with one class a sample, whose predictions are compared as numbers.
        """
        return None

    def pair(self, student: Output, teacher: Output, batch: Batch) -> tuple[Items, Items]:
        """The items of both networks' outputs on a batch, at the same rows."""
        return self.items(student, batch), self.items(teacher, batch)

    @abstractmethod
    def items(self, output: Output, batch: Batch) -> Items:
        """The rows on which student and teacher are compared."""

    def loss_in_part(self, output: Output, batch: Batch, covered: Tensor, counts: Tensor) -> Tensor:
        """The loss summed over the items that `counts[N]` marks, whose annotation speaks only of the labels that
        `covered[N, C]` marks.

        It is that of `loss` if that is all of them. Tasks have it whose samples may be annotated in part.
        """
        raise NotImplementedError(f"samples of {self.name} have all their labels")

    # ---- the meaning of a head's outputs ----

    @property
    def width(self) -> int:
        """Number of outputs in a row, D of the `[N, D]` that `same` and `divergence` take."""
        return self.info.num_outputs or 1

    def rows(self, logits: Tensor, batch: Batch) -> Tensor:
        """Arranges a head's outputs for a batch in one row for each target: `[N, C]`; unchanged if they are so already.

        The other methods take outputs in this form, except those that take an `Output`.
        """
        return logits

    def vectors(self, logits: Tensor) -> Tensor:
        """Outputs as vectors `[N, C]` of finite numbers, whose distances are mse and cosine; unchanged if they are so
        already.
        """
        return logits

    def same(self, one: Tensor, other: Tensor) -> Tensor | None:
        """Agreement in [0, 1] of two outputs `[N, C]` for each item: `[N]`. None if outputs are values, which are never
        exactly equal.
        """
        return None

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor | None:
        """T²·KL(teacher ‖ student) in nats of the outputs `[N, C]` at a temperature T, for each item: `[N]`. None if outputs
        are values, not probabilities. The gauge `drift/kl` and the anchor of distillation are both this.
        """
        return None

    def draw(self, logits: Tensor, random: np.random.Generator) -> Tensor | None:
        """Draws targets from the distribution that `logits[N, C]` define, in the form that `loss` takes. None if there is no
        such distribution. The true Fisher information is an expectation over these targets.
        """
        return None


class RowTask(Task):
    """A task whose items are rows of the output, one target each: samples, tokens, words.

    The batch marks the rows that are items (`select`), or the samples that are real and not fillers (`real`). The network
    computes its heads for these rows only, so that losses, metrics and anchors never see padding.
    """

    lists: ClassVar[Mapping[str, str]] = {}
    """For samples with several rows: the name of each list in a prediction, and the key of `decode_rows` that it lists"""

    def select(self, batch: Batch) -> Tensor | None:
        marked: Tensor | None = batch["select"] if "select" in batch else batch.get("real")
        return marked

    def loss(self, output: Output, batch: Batch) -> Loss:
        return Loss(self.row_loss(self.rows(output.logits, batch), batch["y"]), int(batch["count"]))

    def update(self, metric: Metric, output: Output, batch: Batch) -> None:
        self.update_rows(metric, self.rows(output.logits, batch), batch["y"])

    def decode(self, output: Output, batch: Batch) -> list[dict[str, Any]]:
        """The plain dicts of `decode_rows`, or one dict with a list for each key if a sample has several rows."""
        rows = self.decode_rows(self.rows(output.logits, batch))
        if self.one_item_per_sample:
            return rows
        return [{key: [row[one] for row in of] for key, one in self.lists.items()} for of in by_sample(rows, batch)]

    def items(self, output: Output, batch: Batch) -> Items:
        source = None if output.source_logits is None else self.rows(output.source_logits, batch)
        logits = self.rows(output.logits, batch)
        return Items(output.pretrained_features, logits, source, len(logits))

    @abstractmethod
    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Loss of `logits[N, C]` and `y[N]` summed over rows: a scalar. Zero, with a gradient, for N = 0."""

    def loss_in_part(self, output: Output, batch: Batch, covered: Tensor, counts: Tensor) -> Tensor:
        logits = self.rows(output.logits, batch)
        return self.covered_loss(logits[counts], batch["y"][counts], covered[counts])

    def covered_loss(self, logits: Tensor, y: Tensor, covered: Tensor) -> Tensor:
        """`row_loss` of rows that are annotated in part; see `loss_in_part`."""
        raise NotImplementedError(f"samples of {self.name} have all their labels")

    def of_old_labels(self, logits: Tensor, known: int) -> Tensor:
        """`[N, S]`, what `logits[N, C]` say of the S old labels, which come first, to compare with a network of these alone."""
        return logits[:, :known]

    @abstractmethod
    def predict(self, logits: Tensor) -> Tensor:
        """The predictions from `logits[N, C]` that the metrics compare with `y`."""

    def update_rows(self, metric: Metric, logits: Tensor, y: Tensor) -> None:
        """Adds N rows to a metric."""
        metric.update(self.predict(logits), y)

    @abstractmethod
    def decode_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """One plain dict per row."""


def draw_classes(logits: Tensor, random: np.random.Generator) -> Tensor:
    """One class of C for each row of `logits[N, C]`, with the probabilities of their softmax: `[N]` int64."""
    reached = logits.detach().double().cpu().softmax(-1).cumsum(-1)
    uniform = torch.from_numpy(random.random((len(logits), 1))) * reached[:, -1:]
    return (uniform >= reached).sum(-1).to(logits.device)


def by_sample(rows: list[Any], batch: Batch) -> list[list[Any]]:
    """The rows of a batch that `select` marks, in one list for each sample that is not a filler."""
    counts = batch["select"].flatten(1).sum(1)
    counts = (counts[batch["real"]] if "real" in batch else counts).tolist()
    return [rows[end - count : end] for end, count in zip(accumulate(counts), counts, strict=True)]
