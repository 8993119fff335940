"""Multi-label classification: each of C labels applies to an item or not, with a logit of its own; for source heads."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MultilabelAccuracy, MultilabelExactMatch, MultilabelF1Score

from sft_lightning.anchors import bernoulli_kl
from sft_lightning.core.metric_info import SHARE
from sft_lightning.tasks.base import RowTask, TaskMetric, at_least_single


class MultiLabel(RowTask):
    """`logits[N, C]`, `y[N, C]` of 0 and 1. A label is predicted if its probability σ(logit) is above one half."""

    name = "multi_label"
    metrics = {
        "label_accuracy": TaskMetric("max", SHARE, lambda info: MultilabelAccuracy(info.num_outputs, average="micro")),
        "exact_match": TaskMetric("max", SHARE, lambda info: MultilabelExactMatch(info.num_outputs)),
        "f1_micro": TaskMetric("max", SHARE, lambda info: MultilabelF1Score(info.num_outputs, average="micro")),
    }
    default_metrics = ("label_accuracy", "f1_micro")
    loss_unit = "nats"

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        said = at_least_single(logits)
        return F.binary_cross_entropy_with_logits(said, y.to(said.dtype), reduction="sum")

    def predict(self, logits: Tensor) -> Tensor:
        return (logits > 0).long()

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        """The share of labels on which both agree."""
        return ((one > 0) == (other > 0)).double().mean(-1)

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return bernoulli_kl(student, teacher, temperature)

    def draw(self, logits: Tensor, random: np.random.Generator) -> Tensor:
        uniform = torch.from_numpy(random.random(tuple(logits.shape))).to(logits.device)
        return (uniform < logits.detach().double().sigmoid()).long()

    def decode_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        names = self.info.labels or [str(i) for i in range(self.info.num_outputs)]
        return [
            {"labels": [n for n, v in zip(names, p, strict=True) if v > 0.5], "probabilities": [round(v, 6) for v in p]}
            for p in logits.float().sigmoid().tolist()
        ]
