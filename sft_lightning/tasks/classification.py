"""Classification: predicts one of C classes for each item, with cross-entropy in nats."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

from sft_lightning.anchors import kl
from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.core.structures import TaskInfo
from sft_lightning.tasks.base import RowTask, TaskMetric, at_least_single, draw_classes
from sft_lightning.tasks.calibration import Brier, CalibrationError
from sft_lightning.tasks.old_and_new import GROUPS, OldAndNew


class Matthews(MulticlassConfusionMatrix):
    """Matthews correlation in [-1, 1], equal to scikit-learn's: 0 if only one class is predicted or true.

    torchmetrics' own gives small nonzero values in that case, which is the usual one at the start of training on GLUE's CoLA.
    """

    def compute(self) -> Tensor:
        matrix = self.confmat.double()  # rows: true, columns: predicted
        true, said, items = matrix.sum(1), matrix.sum(0), matrix.sum()
        covariance = matrix.trace() * items - true @ said
        spread = ((items**2 - true @ true) * (items**2 - said @ said)).sqrt()
        return torch.where(spread > 0, covariance / spread.clamp(min=1.0), 0.0)


def _f1(info: TaskInfo) -> BinaryF1Score:
    if info.num_outputs != 2:
        raise UserError(
            "metrics",
            f"f1 needs two classes (it scores the second), but the data has {info.num_outputs}",
            "use f1_macro",
        )
    return BinaryF1Score()


class Classification(RowTask):
    """`logits[N, C]`, `y[N]` int64 in [0, C)."""

    name = "classification"
    has_classes = True
    smooths_labels = True
    metrics = {
        "accuracy": TaskMetric("max", SHARE, lambda info: MulticlassAccuracy(info.num_outputs, average="micro")),
        "f1": TaskMetric("max", SHARE, _f1),
        "f1_macro": TaskMetric("max", SHARE, lambda info: MulticlassF1Score(info.num_outputs, average="macro")),
        "matthews": TaskMetric("max", "", lambda info: Matthews(info.num_outputs)),
        "ece": TaskMetric("min", SHARE, lambda info: CalibrationError()),
        "brier": TaskMetric("min", "", lambda info: Brier()),
    }
    default_metrics = ("accuracy", "f1_macro")
    loss_unit = "nats"

    @property
    def metric_names(self) -> list[str]:
        """Adds the metrics on old and on new labels, if the network knew some labels before."""
        return [*super().metric_names, *(GROUPS if self.info.known else ())]

    @classmethod
    def metric_info(cls, name: str) -> MetricInfo | None:
        """Adds the metrics on old and on new labels."""
        return GROUPS.get(name) or super().metric_info(name)

    def make_metrics(self, final: bool = False) -> dict[str, Metric]:
        """One meter for all metrics on old and on new labels, and one for each other metric."""
        meters = {name: self._metric(name).make(self.info) for name in self.metric_names if name not in GROUPS}
        return meters | ({"groups": OldAndNew(self.info.known)} if self.info.known else {})

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(at_least_single(logits), y, reduction="sum", label_smoothing=self.label_smoothing)

    def update_rows(self, metric: Metric, logits: Tensor, y: Tensor) -> None:
        if isinstance(metric, CalibrationError | Brier):
            metric.update(at_least_single(logits).softmax(-1), y)
        else:
            super().update_rows(metric, logits, y)

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        return (one.argmax(-1) == other.argmax(-1)).double()

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return kl(student, teacher, temperature)

    def draw(self, logits: Tensor, random: np.random.Generator) -> Tensor:
        return draw_classes(logits, random)

    def decode_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        probabilities = logits.float().softmax(-1).cpu()
        labels = self.info.labels or [str(i) for i in range(self.info.num_outputs)]
        return [
            {"label": labels[int(p.argmax())], "probabilities": [round(v, 6) for v in p.tolist()]}
            for p in probabilities
        ]
