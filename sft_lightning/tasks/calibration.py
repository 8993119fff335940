"""Calibration of class probabilities: metrics that take probabilities, not the predicted classes."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.tasks.metrics import MeanLoss

BINS = 15


class CalibrationError(Metric):
    """Expected calibration error: |accuracy − mean confidence| of each of 15 equal bins of confidence, weighted by its samples.

    It is updated with probabilities `[N, C]`, and keeps sums alone: the error is the sum over bins of |Σ (confidence − right)|,
    divided by N. As in torchmetrics, whose values these are, a confidence of exactly 1 has a bin of its own.
    """

    higher_is_better = False
    full_state_update = False
    gaps: Tensor
    """`[BINS + 1]`, each bin's sum of confidence − right"""
    items: Tensor

    def __init__(self) -> None:
        super().__init__()
        dtype = torch.float32 if torch.backends.mps.is_available() else torch.float64
        self.add_state("gaps", torch.zeros(BINS + 1, dtype=dtype), dist_reduce_fx="sum")
        self.add_state("items", torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, y: Tensor) -> None:
        confidence, said = probabilities.max(-1)
        edges = torch.linspace(0, 1, BINS + 1, dtype=confidence.dtype, device=confidence.device)
        of_each = confidence.to(self.gaps.dtype) - (said == y).to(self.gaps.dtype)
        self.gaps = self.gaps.index_add(0, torch.bucketize(confidence, edges, right=True) - 1, of_each)
        self.items = self.items + len(y)

    def compute(self) -> Tensor:
        return self.gaps.abs().sum() / self.items


class Brier(MeanLoss):
    """Mean over samples of Σ (p − 1 of the true class)² over classes: 0 to 2. It is updated with probabilities `[N, C]`."""

    def update(self, probabilities: Tensor, y: Tensor) -> None:  # type: ignore[override]
        right = F.one_hot(y, probabilities.shape[-1])
        super().update((probabilities.to(self.total.dtype) - right).square().sum(), len(y))
