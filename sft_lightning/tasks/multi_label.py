"""Multi-label classification: each of C labels applies to an item or not, with a logit of its own."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MultilabelAccuracy, MultilabelExactMatch, MultilabelF1Score
from torchmetrics.utilities import dim_zero_cat

from sft_lightning.anchors import bernoulli_kl
from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.core.structures import Batch, Output, TaskInfo
from sft_lightning.tasks.base import RowTask, Said, TaskMetric, at_least_single
from sft_lightning.tasks.partial import covered_rows
from sft_lightning.tasks.set_groups import SET_GROUPS, OldAndNewSets

UNKNOWN = -1
"""Target of a label that a sample's annotation does not cover, for metrics that leave it out"""


class SampleF1(Metric):
    """Mean over items of the F1 of predicted and true labels; 1 for an item that has no label and gets none.

    It equals scikit-learn's `f1_score(average="samples", zero_division=1)`.
    """

    higher_is_better = True
    full_state_update = False
    total: Tensor
    items: Tensor

    def __init__(self) -> None:
        super().__init__()
        dtype = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("total", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")
        self.add_state("items", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, said: Tensor, y: Tensor) -> None:
        """Adds N items, `[N, C]` of 0 and 1 each."""
        # Counted here, since torchmetrics' own fails for a batch of one item.
        right, of = (said * y).sum(1), said.sum(1) + y.sum(1)
        each = torch.where(of > 0, 2 * right.to(self.total.dtype) / of.clamp(min=1), 1.0)
        self.total += each.sum()
        self.items += len(said)

    def compute(self) -> Tensor:
        return self.total / self.items


class MeanAveragePrecision(Metric):
    """Mean over labels of scikit-learn's average precision, which ranks all items by their logits.

    A label that no item has does not count, since its average precision is undefined; NaN if no item has any label. Items
    whose target is UNKNOWN are not ranked.

    Two samples with the same content have the same logits up to rounding, which depends on the batch that they are in. If
    their labels differ, that rounding decides whether they are tied, so the value may change with the batch size: 0.549 or
    0.558 for 37 texts, 7 of them copies of others.

    Args:
        labels: Number of labels C.
    """

    higher_is_better = True
    full_state_update = False
    logits: list[Tensor]
    y: list[Tensor]

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.labels = labels
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("y", [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forgets all items. Parts are flat and in single precision, so that those of a rank without items fit the others'."""
        super().reset()
        for parts in (self.logits, self.y):
            parts.append(torch.zeros(0, dtype=torch.float32, device=self.device))

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Adds N items, `[N, C]` each."""
        self.logits.append(logits.float().reshape(-1))
        self.y.append(y.float().reshape(-1))

    def compute(self) -> Tensor:
        from sklearn.metrics import average_precision_score

        logits, y = (dim_zero_cat(part).cpu().numpy().reshape(-1, self.labels) for part in (self.logits, self.y))
        there = np.flatnonzero((y > 0).any(0))
        if not len(there) or not np.isfinite(logits).all():
            return torch.tensor(float("nan"))
        known = [y[:, label] != UNKNOWN for label in there]
        each = [average_precision_score(y[k, label], logits[k, label]) for k, label in zip(known, there, strict=True)]
        return torch.tensor(np.mean(each))


def _f1(average: Any) -> TaskMetric:
    """F1 of torchmetrics, equal to scikit-learn's with `zero_division=0`."""
    return TaskMetric(
        "max", SHARE, lambda info: MultilabelF1Score(info.num_outputs, average=average, validate_args=False)
    )


class MultiLabel(RowTask):
    """`logits[N, C]`, `y[N, C]` of 0 and 1. A label is predicted if its probability σ(logit) is above one half.

    The loss is the binary cross-entropy in nats, summed over an item's labels, so it grows with C. All metrics but
    `map` are at the threshold of one half. If they are undefined: a label that no item has and none gets counts 0 in
    `f1_macro`, an item without labels that gets none counts 1 in `f1_samples`, `f1_micro` without any label is 0, and
    `map` leaves out labels that no item has; copies of a sample with other labels make it depend on the batch size, see
    `MeanAveragePrecision`. `exact_match` is the share of items whose labels are all right (subset
    accuracy), `label_accuracy` the share of all single decisions that are right, which rare labels make high. Labels that a
    sample's annotation does not cover (`covered`) are in no metric, and not in `covered_loss`.
    """

    name = "multi_label"
    metrics = {
        "f1_micro": _f1("micro"),
        "f1_macro": _f1("macro"),
        "f1_samples": TaskMetric("max", SHARE, lambda _: SampleF1()),
        "map": TaskMetric("max", SHARE, lambda info: MeanAveragePrecision(info.num_outputs)),
        "exact_match": TaskMetric(
            "max", SHARE, lambda info: MultilabelExactMatch(info.num_outputs, validate_args=False)
        ),
        "label_accuracy": TaskMetric(
            "max",
            SHARE,
            lambda info: MultilabelAccuracy(
                info.num_outputs,
                average="micro",
                ignore_index=UNKNOWN if info.known else None,
                validate_args=False,
            ),
        ),
    }
    default_metrics = ("f1_micro", "f1_macro", "f1_samples", "map", "exact_match", "label_accuracy")
    loss_unit = "nats"

    def __init__(self, info: TaskInfo, label_smoothing: float = 0.0) -> None:
        super().__init__(info, label_smoothing)
        self.labels = info.labels or [str(i) for i in range(info.num_outputs)]

    @property
    def metric_names(self) -> list[str]:
        """Adds the metrics on old and on new labels, if the network knew some labels before."""
        return [*super().metric_names, *(SET_GROUPS if self.info.known else ())]

    @classmethod
    def metric_info(cls, name: str) -> MetricInfo | None:
        """Adds the metrics on old and on new labels."""
        return SET_GROUPS.get(name) or super().metric_info(name)

    def make_metrics(self, final: bool = False) -> dict[str, Metric]:
        """One meter for all metrics on old and on new labels, and one for each other metric."""
        meters = {name: self._metric(name).make(self.info) for name in self.metric_names if name not in SET_GROUPS}
        known, labels = self.info.known, self.info.num_outputs
        return meters | ({"groups": OldAndNewSets(known, labels)} if known else {})

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        said = at_least_single(logits)
        return F.binary_cross_entropy_with_logits(said, y.to(said.dtype), reduction="sum")

    def covered_loss(self, logits: Tensor, y: Tensor, covered: Tensor) -> Tensor:
        said = at_least_single(logits)
        counts = covered.to(said.dtype)
        return F.binary_cross_entropy_with_logits(said, y.to(said.dtype), counts, reduction="sum")

    def predict(self, logits: Tensor) -> Tensor:
        return (logits > 0).long()

    def update(self, metric: Metric, output: Output, batch: Batch) -> None:
        covered = covered_rows(batch)
        if covered is None:
            super().update(metric, output, batch)
            return
        y = batch["y"].long()
        if isinstance(metric, MeanAveragePrecision | MultilabelAccuracy):
            self.update_rows(metric, output.logits, y.masked_fill(~covered, UNKNOWN))
        else:
            metric.update(self.predict(output.logits) * covered, y * covered)

    def update_rows(self, metric: Metric, logits: Tensor, y: Tensor) -> None:
        metric.update(logits if isinstance(metric, MeanAveragePrecision) else self.predict(logits), y.long())

    def said(self, output: Output, batch: Batch) -> list[Said]:
        """The predicted labels; the score is the share of labels that are decided rightly."""
        names = self.info.labels or [str(i) for i in range(self.info.num_outputs)]

        def listed(row: Tensor) -> str:
            return ", ".join(n for n, v in zip(names, row.tolist(), strict=True) if v) or "none"

        predicted, y = self.predict(output.logits), batch.get("y")
        if y is None:
            return [Said(listed(row), form="labels") for row in predicted]
        right = (predicted == y).double().mean(-1).tolist()
        return [Said(listed(p), listed(t), score, "labels") for p, t, score in zip(predicted, y, right, strict=True)]

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        """The share of labels on which both agree."""
        return ((one > 0) == (other > 0)).double().mean(-1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return bernoulli_kl(student, teacher, temperature)

    def draw(self, logits: Tensor, random: np.random.Generator) -> Tensor:
        uniform = torch.from_numpy(random.random(tuple(logits.shape))).to(logits.device)
        return (uniform < logits.detach().double().sigmoid()).long()

    def decode_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """The labels that are predicted, and the probabilities of all labels in their order."""
        return [
            {
                "labels": [name for name, v in zip(self.labels, p, strict=True) if v > 0.5],
                "probabilities": [round(v, 6) for v in p],
            }
            for p in logits.float().sigmoid().tolist()
        ]
