"""The relearn probe: the source metric of a fresh linear head on a network's features, beside that of the kept head.

Where the kept head fails and a fresh one does not, the knowledge is still in the features, and only the head no longer fits.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.evaluation.beside import Beside
from sft_lightning.evaluation.source_data import SourceData, at_retention
from sft_lightning.networks.base import Network
from sft_lightning.tasks import Task

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

PREFIX = "relearn_"
STRENGTHS = tuple(10.0 ** (e / 2) for e in range(-6, 11))  # 0.001 to 100,000, for features whose mean variance is 1
BATCH = 64
"""Samples whose features are computed together"""


class FreshHead(NamedTuple):
    """A linear layer solved on `samples` samples: weight `[C, D]` and bias `[C]` in double precision, on the CPU."""

    weight: Tensor
    bias: Tensor
    samples: int

    def __call__(self, features: Tensor) -> Tensor:
        """Scores `[N, C]` of features `[N, D]`, in their precision and on their device."""
        return (features.cpu().double() @ self.weight.T + self.bias).to(features)


def refuse(task: Task, network: Network) -> None:
    """Raises UserError if a fresh head says nothing of this source task."""
    if network.shares_outputs or not (task.has_classes and task.one_item_per_sample):
        raise UserError(
            "relearn_rows",
            f"is for source heads with one class for each sample, and the source task is {task.info.name}",
            "leave it out",
        )


def fresh_head(x: Tensor, y: Tensor, classes: int) -> FreshHead:
    """Ridge regression of ±1 for each class on features `x[N, D]` in double precision, in closed form.

    The strength of the penalty has the lowest squared error of all samples left out one at a time. `y[N]` are classes. The head
    is NaN if a feature is not finite.
    """
    from sklearn.linear_model import RidgeCV

    if not bool(x.isfinite().all()):
        return FreshHead(x.new_full((classes, x.shape[1]), torch.nan), x.new_full((classes,), torch.nan), len(y))
    mean, scale = x.mean(0), float(x.var(0, correction=0).mean().sqrt()) or 1.0
    targets = 2.0 * F.one_hot(y, classes).double() - 1.0
    found: Any = RidgeCV(STRENGTHS).fit(((x - mean) / scale).numpy(), targets.numpy())
    weight = torch.from_numpy(found.coef_).reshape(classes, -1) / scale
    return FreshHead(weight, torch.from_numpy(found.intercept_) - weight @ mean, len(y))


@torch.no_grad()
def relearned_head(
    trainer: "Trainer", module: "LightningModule", network: Network, source: SourceData, number: int
) -> FreshHead:
    """A fresh head for the source task on a network's features of `number` training samples, the same on each rank.

    Samples are drawn evenly and seen as in an evaluation; the network must be in evaluation mode. It draws no random number.
    """
    task, parts = source.task, list[tuple[Tensor, Tensor]]()
    assert task is not None
    for raw in source.training_samples(number, batch=BATCH):
        with at_retention():
            batch = source.receive(move_data_to_device(raw, module.device))
        batch = trainer.precision_plugin.convert_input(batch)
        with trainer.precision_plugin.forward_context():
            features = network(batch["x"], task.select(batch)).features
        parts.append((features.cpu().double(), batch["y"].cpu()))
    x, y = (torch.cat(part) for part in zip(*parts, strict=True))
    head: FreshHead = trainer.strategy.broadcast(fresh_head(x, y, task.width))
    return head


class Relearned(Beside):
    """Measures a fresh head on the batches of an evaluation, by the source task's primary metric.

    Args:
        task: The source task.
        head: The fresh head.
        device: Where the meters are.
    """

    def __init__(self, task: Task, head: FreshHead, device: torch.device) -> None:
        super().__init__(task, [task.primary.name], device)
        self.head = head

    def add(self, output: Output, batch: Batch) -> None:
        super().add(output._replace(logits=self.head(output.features)), batch)

    def values(self) -> dict[str, float]:
        """As for any meters; NaN for a head that is NaN, whose largest score would be that of the first class."""
        solved = bool(self.head.bias.isfinite().all())
        return {f"{PREFIX}{name}": value if solved else torch.nan for name, value in super().values().items()}
