"""Measures drift from the pretrained network: of weights, of BatchNorm statistics, and of outputs on the target's inputs."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from sft_lightning.anchors import CKASums
from sft_lightning.anchors.weight_space import squared_distance
from sft_lightning.core.structures import Items
from sft_lightning.evaluation.values import ValueSums
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.networks.base import Network
from sft_lightning.tasks import Task, make_task

STATISTICS = ("running_mean", "running_var")


def weight_drift(weights: Sequence[Tensor], start: Sequence[Tensor]) -> dict[str, float]:
    """`drift/weights_l2` = ‖w_S − w_S⁰‖ and `drift/weights_relative` = the same over ‖w_S⁰‖; both 0 at the start.

    w_S are the weights that the network computes with: with adapters w + Δ, since w itself is frozen.
    """
    moved = float(squared_distance([w.detach() for w in weights], list(start)).sqrt())
    return {
        "drift/weights_l2": moved,
        "drift/weights_relative": moved / float(squared_distance(list(start), None).sqrt()),
    }


def statistics_drift(network: Network, teacher: Network) -> dict[str, float]:
    """`drift/buffers_relative` = ‖b − b⁰‖/‖b⁰‖ over the running means and variances of the encoder's BatchNorm layers.

    They change with every training batch, even if all weights are frozen. Absent if there are no such layers.
    """
    start = {n: b for n, b in teacher.named_buffers() if is_statistic(n)}
    now = {n: b for n, b in network.named_buffers() if n in start}
    if not now:
        return {}
    origin = [start[n].to(b.device) for n, b in now.items()]
    moved, length = squared_distance(list(now.values()), origin), squared_distance(origin, None)
    return {"drift/buffers_relative": float((moved / length).sqrt())}


def moved(module: TunedModule) -> dict[str, float]:
    """Drift of weights (with adapters the effective ones, w + Δ) and statistics from the pretrained network's."""
    network, teacher = module.network, module.teacher
    assert network is not None and teacher is not None
    shared = network.shared_weights()
    start = teacher.initial_weights(list(shared))
    return {**weight_drift(list(shared.values()), start), **statistics_drift(network, teacher.network)}


def is_statistic(name: str) -> bool:
    """Whether a buffer of this full name is a running statistic of the encoder."""
    return name.startswith("encoder.") and name.endswith(STATISTICS)


class DriftMeter:
    """Compares student and teacher on the same inputs, exactly over batches and ranks.

    `drift/features_cka`: linear CKA of the features, 1 at the start and for features that were only rotated.
    `drift/features_cka_debiased`: its estimate without the bias of few items in many dimensions. Both use the last features
    that depend on pretrained weights only, and are absent if there are none.

    The other gauges use the kept source head's outputs, or the logits of a shared output space, and are absent without
    either. For classes or labels: `drift/kl`, mean KL(teacher ‖ student) in nats per item, `drift/kl_reverse`, mean
    KL(student ‖ teacher), and `retention/agreement`, the share of items, or of their labels, on which both agree. For values
    (regression, rerankers, reward models): `drift/source_mse`, the mean squared difference in units of the values' variance,
    and `drift/source_correlation`, Pearson's.

    Args:
        network: The student, which knows the task of its source head.
    """

    def __init__(self, network: Network) -> None:
        self.shares_outputs = network.shares_outputs
        info = network.task if network.shares_outputs else network.source_task
        self.task: Task | None = None if info is None else make_task(info)
        self.cka = CKASums()
        self.values_moved = ValueSums()
        self.sums: Tensor | None = None  # items, Σ kl, Σ agreement, Σ reverse kl

    @torch.no_grad()
    def add(self, student: Items, teacher: Items) -> None:
        """Adds the items of one batch, also of an empty one, so that all ranks have sums to reduce."""
        if student.features.shape[-1]:
            self.cka.add(student.features, teacher.features)
        mine, theirs = (o.logits if self.shares_outputs else o.source_logits for o in (student, teacher))
        if mine is None or theirs is None or self.task is None:
            return
        same, divergence = self.task.same(mine, theirs), self.task.divergence(mine, theirs)
        reverse = self.task.divergence(theirs, mine)
        if same is None or divergence is None or reverse is None:
            self.values_moved.add(mine, theirs)
            return
        count = same.new_tensor(float(len(mine)))
        new = torch.stack([part.double().sum() for part in (count, divergence, same, reverse)])
        self.sums = new if self.sums is None else self.sums + new

    def values(self) -> dict[str, float]:
        """The gauges over all added items, on all ranks."""
        if dist.is_available() and dist.is_initialized():
            for tensor in [*self.cka.tensors, *self.values_moved.tensors, *([] if self.sums is None else [self.sums])]:
                dist.all_reduce(tensor)
        values = {}
        if self.cka.tensors:
            values["drift/features_cka"] = float(self.cka.value())
            values["drift/features_cka_debiased"] = float(self.cka.debiased())
        if self.sums is not None:
            items, *sums = self.sums.tolist()
            names = ("drift/kl", "retention/agreement", "drift/kl_reverse")
            values |= {name: total / max(items, 1) for name, total in zip(names, sums, strict=True)}
        return {**values, **self.values_moved.values()}
