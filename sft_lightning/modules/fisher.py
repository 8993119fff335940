"""Computes the diagonal of the source task's Fisher information at the pretrained weights, one sample at a time."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torch.func import functional_call

from sft_lightning.anchors import add_squares
from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch
from sft_lightning.modules.base import SFTModule
from sft_lightning.modules.teacher import Teacher

if TYPE_CHECKING:
    from sft_lightning.evaluation.source_data import SourceData


def fisher_diagonal(
    module: SFTModule, source: "SourceData", labels: str, samples: int | None
) -> tuple[dict[str, Tensor], int]:
    """(F by name, items): F_i = Σ over samples of (∂ Σ over its items of log p / ∂w_i)², divided by the number of items.

    It is computed outside autocast, in evaluation mode, and summed in double precision if the device has it. Ranks share
    the samples and add their sums, so that all have the same F. It covers all pretrained parameters, or only the trained
    ones if parameters are sharded.

    Args:
        module: The module, at the start of a fit.
        source: The source task's data, loaded.
        labels: 'true' draws labels from the pretrained network's output, 'empirical' takes the data's own.
        samples: Number of source training samples to draw; None for all.
    """
    teacher, network = module.teacher, module.network
    assert teacher is not None and network is not None
    if teacher.sharded and network.adapters:
        raise UserError(
            "network.transforms", "EWCSFT with adapters does not work with trainer.strategy fsdp2", "use ddp"
        )
    shared = network.shared_parameters()
    of_start = {n: w for n, w in teacher.initial.items() if not teacher.sharded or shared[n].requires_grad}
    exact = torch.float32 if module.device.type == "mps" else torch.float64
    sums, items = {n: torch.zeros_like(w, dtype=exact) for n, w in of_start.items()}, 0
    # With sharded parameters, all ranks pass the same sample through the network together.
    ranks = (0, 1) if teacher.sharded else (module.trainer.global_rank, module.trainer.world_size)
    with torch.enable_grad():
        for raw in source.training_samples(samples or len(source.data.splits["train"]), *ranks):
            batch = source.receive(move_data_to_device(raw, module.device))
            batch = module.trainer.precision_plugin.convert_input(batch)
            score = by_parts if teacher.sharded else at_start
            gradients, count = score(module, teacher, source, batch, labels)
            add_squares(list(sums.values()), [gradients.get(n) for n in sums])
            items += count
    if ranks[1] > 1:
        items = int(module.all_reduce_sum(torch.tensor(float(items), dtype=exact)))
        sums = {n: module.all_reduce_sum(total) for n, total in sums.items()}
    kinds = {n: torch.promote_types(w.dtype, torch.float32) for n, w in of_start.items()}
    return {n: (total / max(items, 1)).to(kinds[n]) for n, total in sums.items()}, items


Scores = tuple[dict[str, Tensor | None], int]
"""Gradients of one sample's negative log-likelihood by parameter, and its number of items"""


def at_start(module: SFTModule, teacher: Teacher, source: "SourceData", batch: Batch, labels: str) -> Scores:
    """Gradients through the teacher, for copies of its weights, because its own parameters take no gradient."""
    assert source.task is not None
    weights = {n: w.detach().requires_grad_() for n, w in teacher.initial.items()}
    output = functional_call(teacher.network, weights, (batch["x"], source.task.select(batch)))
    output = source.output(teacher.network, output)
    loss, count = source.task.loss(output, labelled(source, batch, output.logits, labels))
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return dict(zip(weights, gradients, strict=True)), int(count)


def by_parts(module: SFTModule, teacher: Teacher, source: "SourceData", batch: Batch, labels: str) -> Scores:
    """Gradients through the student, which still equals the teacher: gathers its parameters, leaves gradients sharded."""
    network = module.network
    assert source.task is not None and network is not None
    network.eval()
    output = source.output(network, network(batch["x"], source.task.select(batch)))
    loss, count = source.task.loss(output, labelled(source, batch, output.logits, labels))
    loss.backward()  # type: ignore[no-untyped-call]
    gradients: dict[str, Tensor | None] = {n: p.grad for n, p in network.shared_parameters().items()}
    network.zero_grad()
    return gradients, int(count)  # items of a source task have no weights


def labelled(source: "SourceData", batch: Batch, logits: Tensor, labels: str) -> Batch:
    """The batch with the labels for F. Drawn labels depend on the sample's row alone."""
    assert source.task is not None
    if labels == "empirical":
        return batch
    drawn = source.task.draw(source.task.rows(logits, batch), np.random.default_rng(list(batch["rows"])))
    if drawn is None:
        raise UserError(
            "model.fisher", f"labels cannot be drawn for the task {source.task.info.name}", "use fisher: empirical"
        )
    return {**batch, "y": drawn}
