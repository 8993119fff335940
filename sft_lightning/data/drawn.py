"""Which samples an evaluation measures: an even draw over the split, whatever its order, the batches or the ranks.

A split may be sorted by class, and is delivered sorted by length; its first samples say little of the rest. So a limited
evaluation, and the comparison of student and teacher, take samples drawn uniformly, without replacement, with a seed that
is fixed: the same for each run, and of two draws the smaller is part of the larger.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sft_lightning.data.sampler import GlobalBatches, Key


def draw(size: int, number: int) -> np.ndarray:
    """`number` of the positions 0 to `size` − 1, ascending; all of them where there are no more."""
    if number >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(size).permutation(size)[:number])


def number_of(limit: int | float, size: int, batch_size: int) -> int:
    """Samples of a split that a limit lets through: so many batches for a whole number, a share of the split for a float.

    `batch_size` is that of an evaluation's batches, over all ranks: how many ranks there are does not count.
    """
    if isinstance(limit, int):
        return min(size, limit * batch_size)
    return min(size, max(1, round(limit * size)))


class Taken(float):
    """What stands in a trainer in place of a limit that was taken over: 1.0, all batches; `asked` is the limit.

    Lightning counts batches, and would take the share of a share.
    """

    def __new__(cls, asked: int | float) -> "Taken":
        return super().__new__(cls, 1.0)

    def __init__(self, asked: int | float) -> None:
        self.asked = asked


def limit_of(trainer: Any, split: str) -> int | float:
    """The trainer's `limit_val_batches` or `limit_test_batches` as it was set."""
    limit: int | float = getattr(trainer, f"limit_{split}_batches")
    return limit.asked if isinstance(limit, Taken) else limit


def take_limit(trainer: Any, split: str) -> int | float:
    """The same, and leaves it to the loader: the trainer lets all of the loader's batches through. 0 stays with it."""
    limit = limit_of(trainer, split)
    if limit:
        setattr(trainer, f"limit_{split}_batches", Taken(limit))
    return limit


class EvenBatches(GlobalBatches):
    """An evaluation's batches for one rank: the samples drawn, first those on which student and teacher are compared.

    Args:
        size: Samples of the split.
        micro: Samples per rank and batch.
        rank: Which part.
        world_size: How many parts.
        lengths: Tokens of each sample: batches then hold samples of like lengths.
        number: Samples that are measured; None for all.
        compared: Of these, samples on which student and teacher are compared, in batches of their own; None for all.
    """

    def __init__(
        self,
        size: int,
        micro: int,
        rank: int = 0,
        world_size: int = 1,
        lengths: Sequence[int] | None = None,
        number: int | None = None,
        compared: int | None = None,
    ) -> None:
        super().__init__(size, micro, 1, rank, world_size, lengths=lengths)
        measured = draw(size, size if number is None else number)
        first = measured if compared is None else draw(size, min(compared, len(measured)))
        self.groups = [first, np.setdiff1d(measured, first, assume_unique=True)]
        self.drawn = len(measured)

    def __len__(self) -> int:
        step = self.micro * self.world_size
        return sum(-(-len(group) // step) for group in self.groups)

    def _batches(self) -> Iterator[list[Key]]:
        step = self.micro * self.world_size
        for group, compared in zip(self.groups, (True, False), strict=True):
            if self.lengths is not None:
                group = group[np.argsort(-self.lengths[group], kind="stable")]
            for start in range(0, len(group), step):
                yield self.part(group[start : start + step], compared)
