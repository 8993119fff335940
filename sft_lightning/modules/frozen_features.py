"""Computes a frozen network's features once, all on each rank; scales them; measures logits on them."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output, Texts
from sft_lightning.modules.base import SFTModule
from sft_lightning.tasks import Task
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters

ROUNDING = 1e-6
"""A feature that varies by no more than this share of its largest value is constant: single precision rounds by as much"""


class Frozen(NamedTuple):
    """A split's items in the head's input form."""

    x: Tensor
    """Pretrained features `[R, D]`, in double precision; R = N unless an item has several rows"""
    y: Tensor
    """Targets `[N]`, or `[N, C]` for several labels"""
    select: Tensor | None
    """Bool, true for each of a sample's rows of `x`: `[samples, most rows of a sample]`, or with one more dimension, as
    `select` in a batch has, `[samples, K, most rows of one of its K]`; None if each sample has one"""
    beside: Texts | None = None
    """As in a batch, of all samples"""

    @property
    def batch(self) -> Batch:
        """All items as one batch, without inputs."""
        rest = {"select": self.select, "beside": self.beside}
        return {"y": self.y, "count": len(self.y), **{name: held for name, held in rest.items() if held is not None}}


def features(module: SFTModule, split: str) -> Frozen:
    """The items of a split, computed in the trainer's precision.

    Samples come without augmentation, as in validation; for 'val' the trainer's limit applies.
    """
    trainer: Any = module.trainer
    data, device = trainer.datamodule, torch.device("cpu") if module.device.type == "mps" else module.device
    loader = data.training_samples() if split == "train" else data.validation_samples()
    parts: list[tuple[Tensor, Tensor]] = []
    counts: list[Tensor] = []
    beside: list[Any] = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # iterating over a loader draws a random number
        for raw in loader:
            batch = trainer.strategy.batch_to_device(raw, module.device)
            batch = trainer.precision_plugin.convert_input(data.receive(batch))
            with trainer.precision_plugin.forward_context():
                output = module.teacher_output(batch)  # equal to the network's, and cached in a study's worker
            parts.append((output.features.to(device).double(), batch["y"].to(device)))
            if "select" in batch:
                counts.append(batch["select"].sum(-1).to(device))
            beside += batch.get("beside", ())
    if not sum(len(y) for _, y in parts):
        raise UserError(
            "data",
            f"have no {split} samples, which {type(module).__name__} needs",
            "check the splits and trainer.limit_val_batches",
        )
    select = None
    if counts:
        most = max(count.shape[-1] for count in counts)
        lengths = torch.cat([F.pad(n, (0, most - n.shape[-1])) if n.ndim > 1 else n for n in counts])
        select = torch.arange(int(lengths.max()), device=device) < lengths[..., None]
    said = Texts(beside) if beside else None
    return Frozen(torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]), select, said)


def scaling(x: Tensor, each: bool) -> tuple[Tensor, Tensor]:
    """(mean, scale), each `[D]`, of features `[N, D]`: `(x - mean) / scale` has mean 0 and mean variance 1.

    With `each`, every feature that varies has variance 1 by itself.
    """
    spread = x.std(0, correction=0)
    spread = torch.where(spread > ROUNDING * x.abs().amax(0), spread, 0.0)
    if not each:
        spread = spread.square().mean().sqrt().expand_as(spread)
    return x.mean(0), torch.where(spread > 0, spread, 1.0)


def measured(task: Task, logits: Tensor, of: Frozen) -> dict[str, float]:
    """The task's metrics and 'loss' of logits `[R, C]`, for items that every rank has completely."""
    meters: dict[str, Metric] = {"loss": MeanLoss(), **task.make_metrics()}
    for meter in meters.values():
        meter.to(logits.device)
        meter.distributed_available_fn = lambda: False
    update_meters(task, meters, Output(logits, logits), of.batch)
    return read_meters(meters)
