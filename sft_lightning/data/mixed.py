"""Batches that hold a fixed share of one kind of samples, such as old ones that are rehearsed."""

from collections.abc import Iterator

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.data.sampler import GlobalBatches, Key


class MixedBatches(GlobalBatches):
    """Each optimizer step has B·(1 − ratio) new samples and B·ratio old ones; an epoch shows each new sample once.

    New samples are positions 0 to `new` − 1, old ones follow. Old samples come in shuffled rounds, which run on from epoch to
    epoch. Without any old sample, steps have the new ones alone: a control with equally many steps. All is a function of
    (seed, epoch), so resumed runs, accumulation and ranks see the same optimizer steps.

    Args:
        new: Number of new samples.
        old: Number of old samples.
        ratio: Share of old samples in an optimizer step.
        micro, accumulate, rank, world_size, seed, reshuffle: As in GlobalBatches.
    """

    def __init__(
        self,
        new: int,
        old: int,
        ratio: float,
        micro: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        reshuffle: bool = True,
    ) -> None:
        super().__init__(new + old, micro, accumulate, rank, world_size, True, seed, reshuffle=reshuffle)
        self.new, self.old = new, old
        step = micro * world_size * accumulate
        self.old_each = round(step * ratio)
        self.new_each = step - self.old_each
        if not 0 < self.old_each < step:
            raise UserError(
                "data.ratio",
                f"{ratio} of data.batch_size {step} leaves {self.old_each} old and {self.new_each} new samples a step",
                "set another ratio or batch_size, so that a step has both",
            )
        if self.new_each < accumulate:
            raise UserError(
                "data.ratio",
                f"leaves {self.new_each} new samples for {accumulate} micro-batches of a step",
                "set it lower, or trainer.accumulate_grad_batches",
            )

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-self.new // self.new_each)

    def __len__(self) -> int:
        return sum(len(self.micro_batches(n)) for n in range(self.steps))

    def micro_batches(self, number: int) -> list[int]:
        """Sizes of the micro-batches of an epoch's step, over all ranks: as many as Lightning accumulates, but in the last."""
        new = min(self.new_each, self.new - number * self.new_each)
        size = new + (self.old_each if self.old else 0)
        parts = min(self.accumulate, size)
        return [len(part) for part in np.array_split(np.arange(size), parts)]

    def order(self) -> list[np.ndarray]:
        """The optimizer steps of this epoch, as positions."""
        epoch = self.epoch if self.reshuffle else 0
        rng = np.random.default_rng((self.seed, epoch))
        new, steps = rng.permutation(self.new), list[np.ndarray]()
        for number in range(self.steps):
            chosen = new[number * self.new_each : (number + 1) * self.new_each]
            if self.old:
                first = (epoch * self.steps + number) * self.old_each
                chosen = np.concatenate([chosen, self.new + self.rehearsed(first)])
            steps.append(rng.permutation(chosen))
        return steps

    def rehearsed(self, first: int) -> np.ndarray:
        """The old samples of a step; `first` of them were shown since the start of the run."""
        places = np.arange(first, first + self.old_each)
        rounds = {
            int(r): np.random.default_rng((self.seed, 1, int(r))).permutation(self.old) for r in places // self.old
        }
        return np.array([rounds[int(p // self.old)][p % self.old] for p in places], dtype=np.int64)

    def _batches(self) -> Iterator[list[Key]]:
        for number, step in enumerate(self.order()):
            sizes = self.micro_batches(number)
            for part in np.split(step, np.cumsum(sizes)[:-1]):
                yield self.part(part)
