"""F1 of sets of labels on the labels that the pretrained network knows and on new ones."""

import torch
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.metric_info import SHARE, MetricInfo

SET_GROUPS = {
    info.name: info
    for info in (
        *(MetricInfo(f"f1_{kind}_{group}", "max", SHARE) for kind in ("micro", "macro") for group in ("old", "new")),
        MetricInfo("harmonic", "max", SHARE),
        MetricInfo("labels_old", None, "labels"),
        MetricInfo("labels_new", None, "labels"),
    )
}
"""What `OldAndNewSets` measures, by name"""


class OldAndNewSets(Metric):
    """Counts the labels of N items, S old ones first, right, predicted and true, over all samples and ranks.

    `f1_micro_old` is the F1 of all decisions on old labels, `f1_macro_old` the mean of their F1 (0 for a label that no item has
    and none gets), and `…_new` the same of new ones. `harmonic` is 2·a·b/(a + b) of both micro-averages, 0 if both are 0.
    `labels_old` and `labels_new` are the numbers of true labels; without any, the group's scores are left out.

    Args:
        known: S.
        labels: Number of all labels C.
    """

    full_state_update = False
    counts: Tensor
    """`[3, C]`: right, predicted, true"""

    def __init__(self, known: int, labels: int) -> None:
        super().__init__()
        self.known = known
        self.add_state("counts", torch.zeros(3, labels, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, said: Tensor, y: Tensor) -> None:
        """Adds N items, `[N, C]` of 0 and 1 each; 0 for both where a label is unknown."""
        self.counts += torch.stack([(said * y).sum(0), said.sum(0), y.sum(0)])

    def compute(self) -> dict[str, Tensor]:
        values: dict[str, Tensor] = {}
        for name, mine in (("old", slice(self.known)), ("new", slice(self.known, None))):
            counts = self.counts[:, mine].double()
            if counts[2].any():
                values |= {f"f1_micro_{name}": f1(counts.sum(1)), f"f1_macro_{name}": f1(counts).mean()}
            values[f"labels_{name}"] = counts[2].sum()
        if "f1_micro_old" in values and "f1_micro_new" in values:
            a, b = values["f1_micro_old"], values["f1_micro_new"]
            values["harmonic"] = 2 * a * b / (a + b) if a + b > 0 else a * 0
        return values


def f1(counts: Tensor) -> Tensor:
    """F1 from the numbers of right, predicted and true labels `[3, …]`; 0 without any."""
    right, said, true = counts
    score: Tensor = 2 * right / (said + true).clamp(min=1)
    return score
