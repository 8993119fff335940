"""The next token: cross-entropy in nats over supervised tokens, each token one item."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from sft_lightning.anchors import kl
from sft_lightning.core.metric_info import SHARE
from sft_lightning.tasks.base import Task, TaskMetric, at_least_single
from sft_lightning.tasks.metrics import MeanLoss


class Perplexity(MeanLoss):
    """e to the mean loss. torchmetrics' own is infinite where one token's probability is below 1e-45."""

    def compute(self) -> Tensor:
        return super().compute().exp()


class CausalLM(Task):
    """`logits[N, V]` at the N positions whose next token `y[N]` is supervised. All metrics weigh tokens equally."""

    name = "causal_lm"
    metrics = {
        "perplexity": TaskMetric("min", "", lambda _: Perplexity()),
        "token_accuracy": TaskMetric("max", SHARE, lambda info: MulticlassAccuracy(info.num_outputs, average="micro")),
    }
    default_metrics = ("perplexity", "token_accuracy")
    loss_unit = "nats"

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(at_least_single(logits), y, reduction="sum")

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        return (one.argmax(-1) == other.argmax(-1)).double()

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl(student, teacher)

    def update(self, metric: Metric, logits: Tensor, y: Tensor) -> None:
        if isinstance(metric, Perplexity):
            metric.update(self.loss(logits, y), len(y))
        else:
            super().update(metric, logits, y)

    def rows(self, logits: Tensor) -> list[dict[str, Any]]:
        probability, token = logits.float().softmax(-1).max(-1)
        return [
            {"token": t, "probability": round(p, 6)} for t, p in zip(token.tolist(), probability.tolist(), strict=True)
        ]
