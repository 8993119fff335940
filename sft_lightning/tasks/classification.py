"""One label of C for each item: cross-entropy in nats."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import (
    BinaryF1Score,
    BinaryMatthewsCorrCoef,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)

from sft_lightning.tasks.base import Task, TaskInfo


def _matthews(info: TaskInfo) -> Any:
    return BinaryMatthewsCorrCoef() if info.num_outputs == 2 else MulticlassMatthewsCorrCoef(info.num_outputs)


class Classification(Task):
    """`logits[N, C]`, `y[N]` int64 in [0, C)."""

    name = "classification"
    metric_makers = {
        "accuracy": (lambda info: MulticlassAccuracy(info.num_outputs, average="micro"), "max"),
        "f1": (lambda _: BinaryF1Score(), "max"),
        "f1_macro": (lambda info: MulticlassF1Score(info.num_outputs, average="macro"), "max"),
        "matthews": (_matthews, "max"),
    }

    def __init__(self, info: TaskInfo, label_smoothing: float = 0.0) -> None:
        super().__init__(info)
        self.label_smoothing = label_smoothing

    @property
    def default_metrics(self) -> list[str]:
        return ["accuracy", "f1_macro"]

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="sum", label_smoothing=self.label_smoothing)

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def rows(self, logits: Tensor) -> list[dict[str, Any]]:
        probabilities = logits.float().softmax(-1).cpu()
        labels = self.info.labels or [str(i) for i in range(self.info.num_outputs)]
        return [
            {"label": labels[int(p.argmax())], "probabilities": [round(v, 6) for v in p.tolist()]}
            for p in probabilities
        ]
