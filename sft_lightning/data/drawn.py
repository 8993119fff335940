"""Draws the samples that a limited evaluation measures: evenly over the split, whatever its order, batches or ranks.

A split may be sorted by class, and batches come sorted by length, so its first samples say little about the rest. A limited
evaluation, and the comparison of student and teacher, therefore draw samples uniformly, without replacement. The seed is
fixed: each run draws the same samples, and a smaller draw is part of a larger one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sft_lightning.data.sampler import GlobalBatches, Key


def draw(size: int, number: int) -> np.ndarray:
    """Draws `number` of the positions 0 to `size` − 1, ascending; all of them if `number` is larger."""
    if number >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(size).permutation(size)[:number])


def number_of(limit: int | float, size: int, batch_size: int) -> int:
    """Number of samples that a limit allows: a whole number counts batches, a float is a share of the split.

    `batch_size` is that of an evaluation's batches over all ranks, so the number of ranks does not matter.
    """
    if isinstance(limit, int):
        return min(size, limit * batch_size)
    return min(size, max(1, round(limit * size)))


class Taken(float):
    """Replaces a trainer's limit that the loader applies: 1.0, all batches of the loader; `asked` is the limit.

    Lightning would otherwise apply the limit again, to the loader's batches.
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
    """As `limit_of`, and makes the trainer take all of the loader's batches. A limit of 0 stays with the trainer."""
    limit = limit_of(trainer, split)
    if limit:
        setattr(trainer, f"limit_{split}_batches", Taken(limit))
    return limit


class EvenBatches(GlobalBatches):
    """An evaluation's batches for one rank: the samples drawn, first those on which student and teacher are compared, or for
    which texts are generated.

    Args:
        size: Samples of the split.
        micro: Samples per rank and batch.
        rank: This rank, from 0.
        world_size: Number of ranks.
        lengths: Tokens of each sample, to make batches of samples of similar length; None for batches in order.
        number: Number of samples that are measured; None for all.
        compared: Number of these on which student and teacher are compared, in batches of their own; None for all.
        generated: Number of these for which texts are generated, in batches of their own; None for all.
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
        generated: int | None = 0,
    ) -> None:
        super().__init__(size, micro, 1, rank, world_size, lengths=lengths)
        self.drawn = size if number is None else min(number, size)
        self.limits = [self.drawn if n is None else min(n, self.drawn) for n in (compared, generated)]
        # Draws are nested, so that the samples between two limits are those of the larger draw without the smaller.
        ends = sorted({*self.limits, self.drawn} - {0})
        draws = [draw(size, end) for end in ends]
        self.groups = [
            (end, np.setdiff1d(all_of, before, assume_unique=True))
            for end, all_of, before in zip(ends, draws, [np.zeros(0, np.int64), *draws], strict=False)
        ]

    def __len__(self) -> int:
        step = self.micro * self.world_size
        return sum(-(-len(group) // step) for _, group in self.groups)

    def _batches(self) -> Iterator[list[Key]]:
        step = self.micro * self.world_size
        for end, group in self.groups:
            compared, generated = (end <= limit for limit in self.limits)
            if self.lengths is not None:
                group = group[np.argsort(-self.lengths[group], kind="stable")]
            for start in range(0, len(group), step):
                yield self.part(group[start : start + step], compared, generated)
