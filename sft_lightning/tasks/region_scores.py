"""Scores of segmentations: IoU, Dice and pixel accuracy of one confusion matrix over all pixels of a split."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from sft_lightning.core.structures import TaskInfo

SCORES = ("miou", "dice", "pixel_accuracy")
"""Names of the scores"""
UNLABELLED = 255
"""The class number of pixels without a label"""
OF_CLASS, NUMBER = "iou/", "pixels/"
"""Begin the names of a class's IoU, and of its number of true pixels"""


class OwnMask(NamedTuple):
    """A mask at its own size, with which a prediction of an image that was resized is compared, or which it becomes."""

    classes: np.ndarray
    """uint8 `[H, W]`: class numbers, UNLABELLED without label, as all are of an image without mask"""
    seen: tuple[int, int]
    """Height and width of the part of the network's input, from the top left, that the image fills"""


class RegionScores(MulticlassConfusionMatrix):
    """Scores in [0, 1] of one matrix of counts over all labelled pixels of all images and ranks, never a mean over batches.

    With right, predicted and true pixels of a class, its IoU is right / (predicted + true − right) and its Dice, which is
    its F1, is 2·right / (predicted + true). `miou` and `dice` are means over the classes that are true or predicted
    somewhere; other classes have neither. `pixel_accuracy` is the share of all pixels that are right. They equal
    scikit-learn's `jaccard_score` and `f1_score` (macro), and `accuracy_score`, on all pixels at once. `compute` returns a
    value for each name; NaN without pixels.

    Args:
        info: The task, for the classes' names.
        names: Names of the scores, of SCORES.
        each_class: Also return `iou/CLASS` and `pixels/CLASS`, the number of true pixels, for each class that occurs.
    """

    def __init__(self, info: TaskInfo, names: Sequence[str], each_class: bool = False) -> None:
        super().__init__(max(2, info.num_outputs), validate_args=False)
        self.labels = info.labels or [str(i) for i in range(info.num_outputs)]
        self.names, self.each_class = list(names), each_class

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        counts = self.confmat.to(torch.float32 if self.confmat.device.type == "mps" else torch.float64)
        right, true, said = counts.diagonal(), counts.sum(1), counts.sum(0)
        there = (true + said) > 0
        nowhere = counts.new_tensor(float("nan"))
        iou = torch.where(there, right / (true + said - right).clamp(min=1), nowhere)
        dice = torch.where(there, 2 * right / (true + said).clamp(min=1), nowhere)
        every = {"miou": iou.nanmean(), "dice": dice.nanmean(), "pixel_accuracy": right.sum() / counts.sum()}
        values = {name: every[name] for name in self.names}
        if self.each_class:
            for at, label in enumerate(self.labels):
                if there[at]:
                    values |= {OF_CLASS + label: iou[at], NUMBER + label: true[at]}
        return values
