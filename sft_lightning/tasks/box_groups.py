"""Average precision of the classes that the pretrained detector knows and of new ones."""

from typing import Any

import numpy as np

from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.core.structures import TaskInfo
from sft_lightning.tasks.box_scores import SCORES, BoxScores

BOX_GROUPS = {
    info.name: info
    for info in (
        MetricInfo("map_old", "max", SHARE),
        MetricInfo("map_new", "max", SHARE),
        MetricInfo("harmonic", "max", SHARE),
        MetricInfo("boxes_old", None, "boxes"),
        MetricInfo("boxes_new", None, "boxes"),
    )
}
"""What `OldAndNewBoxes` measures beside the scores of all classes, by name"""


class OldAndNewBoxes(BoxScores):
    """Adds the mean of COCO's AP over the old classes that occur, and over the new ones.

    `harmonic` is 2·a·b/(a + b) of the two, 0 if both are 0. `boxes_old` and `boxes_new` are the numbers of true boxes; without
    any, the group's score is left out.
    """

    def __init__(self, info: TaskInfo, names: Any = SCORES, each_class: bool = False) -> None:
        super().__init__(info, names, each_class)
        self.known = info.known

    def values(self, found: dict[str, Any]) -> dict[str, Any]:
        values = super().values(found)
        boxes, ap = np.asarray(found["boxes"]), np.asarray(found["ap"])
        for name, mine in (("old", slice(self.known)), ("new", slice(self.known, None))):
            there = boxes[mine] > 0
            if there.any():
                values[f"map_{name}"] = ap[mine][there].mean()
            values[f"boxes_{name}"] = boxes[mine].sum()
        if "map_old" in values and "map_new" in values:
            a, b = values["map_old"], values["map_new"]
            values["harmonic"] = 2 * a * b / (a + b) if a + b > 0 else 0.0
        return values
