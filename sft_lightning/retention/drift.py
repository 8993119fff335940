"""Distance from the pretrained network, measured on weights and on the new task's own inputs."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from sft_lightning.anchors import CKASums, kl
from sft_lightning.anchors.weight_space import squared_distance
from sft_lightning.networks.base import Output


def weight_drift(weights: Sequence[Tensor], start: Sequence[Tensor]) -> dict[str, float]:
    """`drift/weights_l2` = ‖w_S − w_S⁰‖ and `drift/weights_relative` = the same over ‖w_S⁰‖; both 0 at the start."""
    moved = float(squared_distance([w.detach() for w in weights], list(start)).sqrt())
    return {
        "drift/weights_l2": moved,
        "drift/weights_relative": moved / float(squared_distance(list(start), None).sqrt()),
    }


class DriftMeter:
    """Student against teacher on the same inputs, exact over batches and ranks.

    `drift/features_cka`: linear CKA of the features, 1 at the start and for features that were only rotated.
    `drift/kl`: mean KL(teacher ‖ student) in nats per item, and `retention/agreement`: share of items on which both
    say the same; on the kept source head's logits, or on the logits of a shared output space; absent without either.
    """

    def __init__(self, shares_outputs: bool) -> None:
        self.shares_outputs = shares_outputs
        self.cka = CKASums()
        self.sums: Tensor | None = None  # items, Σ kl, Σ agreement

    @torch.no_grad()
    def add(self, student: Output, teacher: Output) -> None:
        """Adds the items of one batch; also where there is none, so that all ranks have sums to add up."""
        self.cka.add(student.features, teacher.features)
        mine, theirs = (o.logits if self.shares_outputs else o.source_logits for o in (student, teacher))
        if mine is None or theirs is None:
            return
        agree = (mine.argmax(-1) == theirs.argmax(-1)).sum()
        new = torch.stack([agree.new_tensor(len(mine)).double(), kl(mine, theirs).double().sum(), agree.double()])
        self.sums = new if self.sums is None else self.sums + new

    def values(self) -> dict[str, float]:
        """The gauges over everything added, on all ranks."""
        if dist.is_available() and dist.is_initialized():
            for tensor in [*self.cka.tensors, *([] if self.sums is None else [self.sums])]:
                dist.all_reduce(tensor)
        values = {"drift/features_cka": float(self.cka.value())}
        if self.sums is not None:
            items, divergence, agree = self.sums.tolist()
            values |= {"drift/kl": divergence / max(items, 1), "retention/agreement": agree / max(items, 1)}
        return values
