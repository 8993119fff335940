"""Scores of entities: precision, recall and F1, over all types and of each type, all from one count a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.structures import TaskInfo
from sft_lightning.tasks.schemes import Entity, entities, scheme_of, strict_entities, types_of

SCORES = tuple(f"entity_{s}{mode}" for mode in ("", "_strict") for s in ("f1", "precision", "recall"))
"""Names of the scores; those in strict mode end with `_strict`"""
OF_TYPE, NUMBER = "entity_f1/", "entity_n/"
"""Begin the names of a type's F1, and of its number of true entities"""


class EntityScores(Metric):
    """Precision, recall and F1 in [0, 1] over entities, which are right if extent and type are; 0 if they are undefined.

    seqeval finds the entities. By default it reads tags as the CoNLL-2000 script conlleval does. In strict mode it only
    finds entities that are written as the scheme demands. Scores are micro-averages over all sentences of all ranks, since
    entities are counted and the counts summed. `compute` returns a value for each name.

    Args:
        info: The task, whose labels are the tags.
        names: Names of the scores, of SCORES.
        each_type: Also return `entity_f1/TYPE` and `entity_n/TYPE`, the number of true entities, for each type that occurs.
    """

    higher_is_better = True
    full_state_update = False
    counts: Tensor
    """`[modes, types, 3]`: entities that are right, predicted, true"""

    def __init__(self, info: TaskInfo, names: Sequence[str], each_type: bool = False) -> None:
        super().__init__()
        self.tags, self.names, self.each_type = list(info.labels), list(names), each_type
        self.scheme = info.scheme or scheme_of(self.tags)
        self.types = types_of(self.tags)
        self._place = {spelled: at for at, kind in enumerate(self.types) for spelled in (kind.strip("-") or "_", kind)}
        strict = any(name.endswith("_strict") for name in names)
        zeros = torch.zeros(1 + strict, len(self.types), 3, dtype=torch.int64)
        self.add_state("counts", zeros, dist_reduce_fx="sum")

    def update(self, said: Sequence[Sequence[int]], true: Sequence[Sequence[int]]) -> None:
        """Adds sentences, each as the class numbers of its words."""
        found = [[[0, 0, 0] for _ in self.types] for _ in range(len(self.counts))]
        for one, other in zip(said, true, strict=True):
            mine, theirs = (tuple(self.tags[i] for i in numbers) for numbers in (one, other))
            for count, (ours, gold) in zip(found, self._read(mine, theirs), strict=True):
                for place, which in enumerate((ours & gold, ours, gold)):
                    for _, _, kind in which:
                        count[self._place[kind]][place] += 1
        self.counts += torch.tensor(found, device=self.counts.device).view_as(self.counts)

    def _read(self, said: tuple[str, ...], true: tuple[str, ...]) -> list[tuple[set[Entity], set[Entity]]]:
        """(predicted, true) entities in each mode."""
        pairs = [(set(entities(said)), set(entities(true)))]
        if len(self.counts) > 1:
            pairs.append((set(strict_entities(said, self.scheme)), set(strict_entities(true, self.scheme))))
        return pairs

    def compute(self) -> dict[str, Tensor]:
        counts = self.counts.double()
        total = counts.sum(1)
        values = {
            name: share(total[int(name.endswith("_strict"))], name.removesuffix("_strict")) for name in self.names
        }
        if self.each_type:
            for kind, of_type in zip(self.types, counts[0], strict=True):
                if of_type[1:].any():
                    values |= {OF_TYPE + kind: share(of_type, "entity_f1"), NUMBER + kind: of_type[2]}
        return values


def share(counts: Tensor, score: str) -> Tensor:
    """A score from the numbers of right, predicted and true entities `[3]`: a scalar, 0 if it is undefined."""
    right, said, true = counts
    out_of = {"entity_precision": said, "entity_recall": true, "entity_f1": (said + true) / 2}[score]
    return torch.where(out_of > 0, right / out_of.clamp(min=0.5), 0.0)
