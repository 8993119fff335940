"""One number for each item: squared error (STS-B's score, for one)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, PearsonCorrCoef, SpearmanCorrCoef

from sft_lightning.tasks.base import Task, at_least_single


class Regression(Task):
    """`logits[N, 1]`, `y[N]` float."""

    name = "regression"
    metric_makers = {
        "pearson": (lambda _: PearsonCorrCoef(), "max"),
        "spearman": (lambda _: SpearmanCorrCoef(), "max"),
        "mse": (lambda _: MeanSquaredError(), "min"),
        "mae": (lambda _: MeanAbsoluteError(), "min"),
    }

    @property
    def default_metrics(self) -> list[str]:
        return ["mse", "pearson", "spearman"]

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        said = at_least_single(logits).squeeze(-1)
        return F.mse_loss(said, y.to(said.dtype), reduction="sum")

    def predict(self, logits: Tensor) -> Tensor:
        return logits.float().squeeze(-1)

    def rows(self, logits: Tensor) -> list[dict[str, Any]]:
        return [{"value": round(v, 6)} for v in logits.float().squeeze(-1).tolist()]
