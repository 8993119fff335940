"""Calibration of class probabilities: metrics that take probabilities, not the predicted classes."""

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from sft_lightning.tasks.metrics import MeanLoss


class CalibrationError(MulticlassCalibrationError):
    """Expected calibration error: |accuracy − mean confidence| of each of 15 equal bins of confidence, weighted by its samples.

    It is updated with probabilities `[N, C]`. torchmetrics takes logits for probabilities if all lie in [0, 1].
    """

    def __init__(self, classes: int) -> None:
        super().__init__(num_classes=classes, n_bins=15, norm="l1")


class Brier(MeanLoss):
    """Mean over samples of Σ (p − 1 of the true class)² over classes: 0 to 2. It is updated with probabilities `[N, C]`."""

    def update(self, probabilities: Tensor, y: Tensor) -> None:  # type: ignore[override]
        right = F.one_hot(y, probabilities.shape[-1])
        super().update((probabilities.to(self.total.dtype) - right).square().sum(), len(y))
