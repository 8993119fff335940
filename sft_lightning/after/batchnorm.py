"""Estimates BatchNorm's running statistics again for weights that no training step saw."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import Trainer
from torch import nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch
from sft_lightning.data.base import SFTDataModule, Split
from sft_lightning.data.drawn import draw
from sft_lightning.data.sampler import Key
from sft_lightning.modules.tuned import TunedModule

SAMPLES = 2048
"""Largest number of training samples that are used"""
BATCH = 64
"""Samples of a batch whose statistics are averaged; a constant, so that they depend on no setting of the run"""


@torch.no_grad()
def reestimate(trainer: Trainer, module: TunedModule, data: SFTDataModule, norms: list[nn.Module]) -> int:
    """Sets each layer's mean and variance to their averages over batches of training samples, without augmentation.

    Samples are drawn evenly and mixed, the same in each call. Dropout is off, and all other layers stay in evaluation mode.
    Returns the number of samples. It draws no random number.
    """
    network, task = module.network, module.task
    assert network is not None and task is not None
    held: list[tuple[Any, bool, Any, Any]] = []
    samples = 0
    try:
        for norm in norms:
            seen: Any = norm.num_batches_tracked
            held.append((norm, norm.training, norm.momentum, None if seen is None else seen.clone()))
            norm.reset_running_stats()  # type: ignore[operator]
            norm.momentum = None  # type: ignore[assignment]  # a plain average
            norm.train()
        for raw in batches(data):
            batch = trainer.precision_plugin.convert_input(data.receive(move_data_to_device(raw, module.device)))
            with trainer.precision_plugin.forward_context():
                network(batch["x"], task.select(batch))
            samples += int(batch.get("samples", len(batch["index"])))
    finally:
        for norm, training, momentum, seen in held:
            norm.momentum = momentum
            norm.train(training)
            if seen is not None:
                norm.num_batches_tracked.copy_(seen)
    return samples


def batches(data: SFTDataModule) -> Iterator[Batch]:
    """Whole batches of training samples as validation would see them; one smaller batch if there are too few samples."""
    train = data.splits["train"]
    split = Split(train.samples, train.rows, train.targets, train=False, name=train.name)
    at = draw(len(split), min(SAMPLES, len(split)))
    if len(at) < 2:
        raise UserError("--batchnorm", "statistics need at least 2 training samples", "use interpolate")
    mixed = at[torch.randperm(len(at), generator=torch.Generator().manual_seed(0)).numpy()]
    whole = len(mixed) // BATCH * BATCH or len(mixed)
    for first in range(0, whole, BATCH):
        yield split.__getitems__([Key(int(position), 0) for position in mixed[first : first + BATCH]])
