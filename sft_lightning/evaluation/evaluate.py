"""Measures a network on a loader, outside Lightning's own loops."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from lightning.pytorch import LightningModule, Trainer

from sft_lightning.core.structures import Batch, Output
from sft_lightning.evaluation.predictions import Answers
from sft_lightning.evaluation.said import SaidSamples
from sft_lightning.tasks import Task
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters


@torch.no_grad()
def evaluate(
    trainer: Trainer,
    module: LightningModule,
    loader: Iterable[Batch],
    finish: Callable[[Batch], Batch],
    task: Task,
    score: Callable[[Batch], Output],
    answers: Answers | SaidSamples | None = None,
) -> dict[str, float]:
    """The task's metrics and 'loss' of the output `score(batch)` over all batches and ranks, in the trainer's precision.

    It restores the module's mode and the random state, as measuring must not change training. If `answers` are given, it
    adds the predictions for this rank's samples to them.
    """
    meters: dict[str, Any] = {"loss": MeanLoss(), **task.make_metrics()}
    for meter in meters.values():
        meter.to(module.device)
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        with torch.random.fork_rng(devices=[]):  # iterating over a loader draws a random number
            for raw in loader:
                # The strategy cannot move it, as its hooks belong to the trainer's data, and this may be other data.
                batch = finish(move_data_to_device(raw, module.device))
                batch = trainer.precision_plugin.convert_input(batch)
                with trainer.precision_plugin.forward_context():
                    output = score(batch)
                    update_meters(task, meters, output, batch)
                if answers is not None:
                    answers.take(batch, output)
    finally:
        for m, mode in modes.items():
            m.training = mode
    return read_meters(meters)
