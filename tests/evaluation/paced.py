"""A task of a user's own, in a module of the user's own: it rates how far off an answer is, and how long one waits for it.

Importing this file registers the task, so tests import it where they take it back (`tests.evaluation.test_known_metrics`).
"""

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, Metric
from torchmetrics.classification import MulticlassAccuracy

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.vision.digits import Digits
from sft_lightning.tasks import Classification, TaskMetric


class MissRate(MulticlassAccuracy):
    """Share of wrong answers."""

    higher_is_better = False

    def compute(self) -> Tensor:
        return 1 - super().compute()


def miss_rate(info: TaskInfo) -> Metric:
    return MissRate(info.num_outputs, average="micro")


def hit_rate(info: TaskInfo) -> Metric:
    return MulticlassAccuracy(info.num_outputs, average="micro")


class Lag(MeanAbsoluteError):
    """As if the numbers of the classes were seconds."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.to(torch.float32), target.to(torch.float32))


class Paced(Classification):
    """Classification under other metrics; the primary one is better where it is lower."""

    name = "paced"
    metrics = {
        "miss_rate": TaskMetric("min", "share", miss_rate),
        "hit_rate": TaskMetric("max", "share", hit_rate),
        "lag": TaskMetric("min", "s", lambda _: Lag()),
    }
    default_metrics = ("miss_rate", "hit_rate", "lag")


class PacedDigits(Digits):
    """Digits, for that task."""

    task_name = "paced"
