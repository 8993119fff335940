"""Regression: predicts one number for each item (such as STS-B's score), with squared error."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, SpearmanCorrCoef
from torchmetrics.utilities import dim_zero_cat

from sft_lightning.tasks.base import RowTask, TaskMetric, at_least_single


class Correlation(SpearmanCorrCoef):
    """Correlation of predicted with true values, in [-1, 1], over all values at once and in double precision.

    It equals scipy's: NaN for one item, or if all predicted or all true values are equal. There torchmetrics' own are 0 or
    a rounding error; its Spearman is off by 1e-6 for few items, and its sums of ranks overflow at 65,536 equal values.
    """

    def compute(self) -> Tensor:
        values = [dim_zero_cat(v).cpu() for v in (self.preds, self.target)]
        if any(bool(v.isnan().any() or (v == v[0]).all()) for v in values):
            return torch.tensor(float("nan"))
        said, true = (self.centred(v) for v in values)
        return (said @ true) / ((said @ said) * (true @ true)).sqrt()

    def centred(self, values: Tensor) -> Tensor:
        """The values to correlate, less their mean: `[N]` double."""
        double = values.double()
        return double - double.mean()


class RankCorrelation(Correlation):
    """Spearman's correlation: equal values share the mean of their ranks."""

    def centred(self, values: Tensor) -> Tensor:
        """Twice the ranks, less their mean, exactly."""
        _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
        twice: Tensor = 2 * counts.cumsum(0) - counts + 1
        return (twice[place] - (len(values) + 1)).double()


class Regression(RowTask):
    """`logits[N, 1]`, `y[N]` float. Correlations are NaN if they are undefined, as for one item."""

    name = "regression"
    metrics = {
        "pearson": TaskMetric("max", "", lambda _: Correlation()),
        "spearman": TaskMetric("max", "", lambda _: RankCorrelation()),
        "mse": TaskMetric("min", "label units squared", lambda _: MeanSquaredError()),
        "mae": TaskMetric("min", "label units", lambda _: MeanAbsoluteError()),
    }
    default_metrics = ("mse", "pearson", "spearman")
    loss_unit = "label units squared"

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        said = at_least_single(logits).squeeze(-1)
        return F.mse_loss(said, y.to(said.dtype), reduction="sum")

    def predict(self, logits: Tensor) -> Tensor:
        return logits.float().squeeze(-1)

    def draw(self, logits: Tensor, random: np.random.Generator) -> Tensor:
        """Draws from a normal distribution of variance one half, whose negative log-likelihood is the squared error."""
        noise = torch.from_numpy(random.normal(scale=0.5**0.5, size=len(logits)))
        return logits.detach().squeeze(-1) + noise.to(logits.device, logits.dtype)

    def decode_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        return [{"value": round(v, 6)} for v in logits.float().squeeze(-1).tolist()]
