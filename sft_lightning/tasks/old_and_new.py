"""Accuracy on the labels that the pretrained network knows and on new ones, and how often one is taken for the other."""

import torch
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.metric_info import SHARE, MetricInfo

GROUPS = {
    info.name: info
    for info in (
        MetricInfo("accuracy_old", "max", SHARE),
        MetricInfo("accuracy_new", "max", SHARE),
        MetricInfo("harmonic", "max", SHARE),
        MetricInfo("old_as_new", "min", SHARE),
        MetricInfo("new_as_old", "min", SHARE),
        MetricInfo("samples_old", None, "samples"),
        MetricInfo("samples_new", None, "samples"),
    )
}
"""What `OldAndNew` measures, by name"""


class OldAndNew(Metric):
    """Counts N predictions over S old labels, which come first, and new ones. The shares are over all samples and ranks.

    `accuracy_old` and `accuracy_new` are the shares of the samples with an old (new) label that are right among all labels;
    `harmonic` is 2·a·b/(a + b) of the two, 0 if both are 0. `old_as_new` is the share of samples with an old label that get a
    new one, `new_as_old` the reverse. `samples_old` and `samples_new` are their numbers. A share over no sample is left out.

    Args:
        known: S.
    """

    full_state_update = False
    counts: Tensor
    """`[2, 3]` for old and new labels: samples, right, taken for the other group"""

    def __init__(self, known: int) -> None:
        super().__init__()
        self.known = known
        self.add_state("counts", torch.zeros(2, 3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, said: Tensor, true: Tensor) -> None:
        """Adds predictions `[N]` and labels `[N]`."""
        for group, mine in enumerate((true < self.known, true >= self.known)):
            crossed = mine & ((said < self.known) != (true < self.known))
            self.counts[group] += torch.stack([mine.sum(), (mine & (said == true)).sum(), crossed.sum()])

    def compute(self) -> dict[str, Tensor]:
        (old, old_right, as_new), (new, new_right, as_old) = self.counts.double()
        values: dict[str, Tensor] = {}
        if old:
            values |= {"accuracy_old": old_right / old, "old_as_new": as_new / old}
        if new:
            values |= {"accuracy_new": new_right / new, "new_as_old": as_old / new}
        if old and new:
            a, b = values["accuracy_old"], values["accuracy_new"]
            values["harmonic"] = 2 * a * b / (a + b) if a + b > 0 else a * 0
        return {**values, "samples_old": old, "samples_new": new}
