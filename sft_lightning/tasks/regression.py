"""Regression: predicts one number or several for each item (such as STS-B's score), with squared error."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, SpearmanCorrCoef
from torchmetrics.utilities import dim_zero_cat

from sft_lightning.core.structures import TaskInfo
from sft_lightning.tasks.base import RowTask, TaskMetric, at_least_single


class Correlation(SpearmanCorrCoef):
    """Correlation of predicted with true values, in [-1, 1], over all values at once and in double precision. For several
    numbers an item, the mean of their correlations.

    It equals scipy's: NaN for one item, or if all predicted or all true values are equal. There torchmetrics' own are 0 or
    a rounding error; its Spearman is off by 1e-6 for few items, and its sums of ranks overflow at 65,536 equal values.

    Args:
        numbers: Numbers of an item.
    """

    def __init__(self, numbers: int = 1) -> None:
        super().__init__()
        self.numbers = numbers

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Keeps predicted and true values in one row each, which ranks without an item gather too."""
        super().update(preds.flatten(), target.flatten())

    def compute(self) -> Tensor:
        said, true = (dim_zero_cat(v).cpu().reshape(-1, self.numbers) for v in (self.preds, self.target))
        return torch.stack([self.one(*pair) for pair in zip(said.T, true.T, strict=True)]).mean()

    def one(self, *values: Tensor) -> Tensor:
        """The score of predicted and true values `[N]`."""
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


class Determination(Correlation):
    """R², the share of the true values' variance that is explained: at most 1, 0 for their mean, negative for worse.

    It equals scikit-learn's; NaN where that is made up, for one item or if all true values are equal.
    """

    def one(self, *values: Tensor) -> Tensor:
        said, true = (v.double() for v in values)
        if bool((true == true[0]).all()):
            return torch.tensor(float("nan"))
        around: Tensor = true - true.mean()
        return 1 - ((said - true) ** 2).sum() / (around @ around)


def correlation(cls: type[Correlation]) -> Callable[[TaskInfo], Correlation]:
    """Makes a meter of so many numbers an item as the task has outputs."""
    return lambda info: cls(max(1, info.num_outputs))


class Regression(RowTask):
    """`logits[N, K]` and `y[N, K]` float of K numbers an item; `y[N]` for one.

    The loss is the squared error, summed over an item's numbers. `mse` and `mae` are means over all numbers of all items; of
    the correlations and of `r2` it is the mean over the K numbers. These are NaN if they are undefined, as for one item.
    """

    name = "regression"
    metrics = {
        "pearson": TaskMetric("max", "", correlation(Correlation)),
        "spearman": TaskMetric("max", "", correlation(RankCorrelation)),
        "r2": TaskMetric("max", "", correlation(Determination)),
        "mse": TaskMetric("min", "label units squared", lambda _: MeanSquaredError()),
        "mae": TaskMetric("min", "label units", lambda _: MeanAbsoluteError()),
    }
    default_metrics = ("mse", "pearson", "spearman")
    loss_unit = "label units squared"

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        said = self.flat(at_least_single(logits))
        return F.mse_loss(said, y.reshape(said.shape).to(said.dtype), reduction="sum")

    def flat(self, logits: Tensor) -> Tensor:
        """`[N]` if an item has one number, else `[N, K]`."""
        return logits.squeeze(-1) if logits.shape[-1] == 1 else logits

    def predict(self, logits: Tensor) -> Tensor:
        return self.flat(logits.float())

    def update_rows(self, metric: Metric, logits: Tensor, y: Tensor) -> None:
        said = self.predict(logits)
        metric.update(said, y.reshape(said.shape))

    def draw(self, logits: Tensor, random: np.random.Generator) -> Tensor:
        """Draws from a normal distribution of variance one half, whose negative log-likelihood is the squared error."""
        said = self.flat(logits.detach())
        noise = torch.from_numpy(random.normal(scale=0.5**0.5, size=tuple(said.shape)))
        return said + noise.to(logits.device, logits.dtype)

    def decode_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """The number, or for several `values`, by the numbers' names."""
        rows = [[round(v, 6) for v in row] for row in logits.float().tolist()]
        if logits.shape[-1] == 1:
            return [{"value": value} for (value,) in rows]
        names = self.info.labels or [str(i) for i in range(logits.shape[-1])]
        return [{"values": dict(zip(names, row, strict=True))} for row in rows]
