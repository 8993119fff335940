"""Scores of entities of types that the pretrained network knows and of new ones, and how often one is taken for the other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.core.structures import TaskInfo
from sft_lightning.tasks.entity_scores import EntityScores, share
from sft_lightning.tasks.schemes import OUTSIDE, entities, type_of

ENTITY_GROUPS = {
    info.name: info
    for info in (
        MetricInfo("entity_f1_old", "max", SHARE),
        MetricInfo("entity_f1_new", "max", SHARE),
        MetricInfo("harmonic", "max", SHARE),
        MetricInfo("old_as_new", "min", SHARE),
        MetricInfo("new_as_old", "min", SHARE),
        MetricInfo("entities_old", None, "entities"),
        MetricInfo("entities_new", None, "entities"),
    )
}
"""What `OldAndNewEntities` measures beside the scores of all entities, by name"""


class OldAndNewEntities(EntityScores):
    """Adds scores of the entities of old and of new types to those of all.

    `entity_f1_old` and `entity_f1_new` are micro-averages over the types of one group, `harmonic` is 2·a·b/(a + b) of the
    two, 0 if both are 0. `old_as_new` is the share of true entities of old types with a word that is tagged with a new
    type, `new_as_old` the reverse. `entities_old` and `entities_new` are the numbers of true entities; without any, the
    group's scores are left out. In a sentence only those predictions count whose type its annotation covers; see
    `TokenClassification`. A type is old if one of its tags is.
    """

    crossed: Tensor
    """`[2]`: true entities of old and of new types with a word of the other group"""

    def __init__(self, info: TaskInfo, names: Sequence[str], each_type: bool = False) -> None:
        super().__init__(info, names, each_type)
        known = {type_of(tag) for tag in info.labels[: info.known] if tag != OUTSIDE}
        self.is_new = [kind not in known for kind in self.types]
        self.group = [-1 if tag == OUTSIDE else int(type_of(tag) not in known) for tag in self.tags]
        """0 for each tag of an old type, 1 of a new one, −1 for O"""
        self.add_state("crossed", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        said: Sequence[Sequence[int]],
        true: Sequence[Sequence[int]],
        all_said: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Adds sentences; `all_said` are their predictions with those of types that the annotation does not cover."""
        super().update(said, true)
        crossed = [0, 0]
        for mine, theirs in zip(said if all_said is None else all_said, true, strict=True):
            for start, end, _ in entities([self.tags[i] for i in theirs]):
                group = self.group[theirs[start]]
                crossed[group] += any(self.group[i] == 1 - group for i in mine[start:end])
        self.crossed += torch.tensor(crossed, device=self.crossed.device)

    def compute(self) -> dict[str, Tensor]:
        values = super().compute()
        new = torch.tensor(self.is_new, dtype=torch.bool, device=self.counts.device)
        counts, crossed = self.counts[0].double(), self.crossed.double()
        found: dict[str, Tensor] = {}
        for at, (name, other, mine) in enumerate((("old", "new", ~new), ("new", "old", new))):
            of_group = counts[mine].sum(0)
            if there := of_group[2]:
                found |= {f"entity_f1_{name}": share(of_group, "entity_f1"), f"{name}_as_{other}": crossed[at] / there}
            found[f"entities_{name}"] = of_group[2]
        if "entity_f1_old" in found and "entity_f1_new" in found:
            a, b = found["entity_f1_old"], found["entity_f1_new"]
            found["harmonic"] = 2 * a * b / (a + b) if a + b > 0 else a * 0
        return values | found
