"""Average precision of the classes that the pretrained detector knows and of new ones; how often one is taken for the other."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.core.structures import TaskInfo
from sft_lightning.tasks.box_scores import SCORES, BoxScores, Picture, overlaps

BOX_GROUPS = {
    info.name: info
    for info in (
        MetricInfo("map_old", "max", SHARE),
        MetricInfo("map_new", "max", SHARE),
        MetricInfo("harmonic", "max", SHARE),
        MetricInfo("old_as_new", "min", SHARE),
        MetricInfo("new_as_old", "min", SHARE),
        MetricInfo("boxes_old", None, "boxes"),
        MetricInfo("boxes_new", None, "boxes"),
    )
}
"""What `OldAndNewBoxes` measures beside the scores of all classes, by name"""
LEAST = 0.5
"""Smallest IoU at which a detection is of a true box"""


class OldAndNewBoxes(BoxScores):
    """Adds the mean of COCO's AP over the old classes that occur, and over the new ones.

    `harmonic` is 2·a·b/(a + b) of the two, 0 if both are 0. `boxes_old` and `boxes_new` are the numbers of true boxes; without
    any, the group's scores are left out.

    `old_as_new` is the share of true boxes of old classes that are taken for a new one: of all detections with an IoU of at
    least LEAST with the box, one of a new class has a higher score than each of an old class. `new_as_old` is the reverse.
    Detections of all classes count for it, also of those that the image's annotation does not cover: what the box is, is
    known. A box that nothing is found on is missed, and not taken for another. These are ours; the classification error of
    TIDE (Bolya et al. 2020) counts detections of a wrong class instead, among all classes.
    """

    full_state_update = False
    crossed: Tensor
    """`[2]`, true old boxes that are taken for new ones, and the reverse"""

    def __init__(self, info: TaskInfo, names: Any = SCORES, each_class: bool = False) -> None:
        super().__init__(info, names, each_class)
        self.known = info.known
        self.add_state("crossed", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        row: int,
        picture: Picture,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        counts: np.ndarray | None = None,
    ) -> None:
        assert picture.boxes is not None and picture.labels is not None and picture.ignored is not None
        there = ~picture.ignored
        there_old = picture.labels[there] < self.known
        near = overlaps(picture.boxes[there], boxes) >= LEAST
        best = [
            np.where(near & of, scores, -np.inf).max(1, initial=-np.inf)
            for of in (labels < self.known, labels >= self.known)
        ]
        taken = [(there_old & (best[1] > best[0])).sum(), (~there_old & (best[0] > best[1])).sum()]
        self.crossed += torch.tensor(taken, device=self.crossed.device)
        super().update(row, picture, boxes, scores, labels, counts)

    def values(self, found: dict[str, Any]) -> dict[str, Any]:
        values = super().values(found)
        boxes, ap = np.asarray(found["boxes"]), np.asarray(found["ap"])
        for at, (name, other) in enumerate((("old", "new"), ("new", "old"))):
            mine = slice(self.known) if name == "old" else slice(self.known, None)
            there = boxes[mine] > 0
            if there.any():
                values[f"map_{name}"] = ap[mine][there].mean()
                values[f"{name}_as_{other}"] = int(self.crossed[at]) / boxes[mine].sum()
            values[f"boxes_{name}"] = boxes[mine].sum()
        if "map_old" in values and "map_new" in values:
            a, b = values["map_old"], values["map_new"]
            values["harmonic"] = 2 * a * b / (a + b) if a + b > 0 else 0.0
        return values
