"""Assigns samples to micro-batches and ranks: optimizer steps are the same however many ranks share the work."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from sft_lightning.core.errors import UserError


class Key(NamedTuple):
    """Asks a data set for a sample: its position, the epoch (views depend on it), and whether it counts.

    A filler (`real=False`) keeps ranks in step if a batch does not divide; it is in no loss and no metric. An evaluation
    compares student and teacher only on batches of `compared` samples, and generates texts only for those that are to be
    `generated`.
    """

    position: int
    epoch: int
    real: bool = True
    compared: bool = True
    generated: bool = False


def micro_batch_size(batch_size: int, world_size: int, accumulate: int) -> int:
    """Samples per rank and micro-batch, from the global batch size per optimizer step."""
    if batch_size < 1:
        raise UserError("data.batch_size", f"must be at least 1, got {batch_size}")
    if accumulate < 1:
        raise UserError("trainer.accumulate_grad_batches", f"must be at least 1, got {accumulate}")
    parts = world_size * accumulate
    if batch_size % parts:
        near = max(parts, round(batch_size / parts) * parts)
        raise UserError(
            "data.batch_size",
            f"{batch_size} (samples per optimizer step, over all ranks) does not divide by {world_size} "
            f"rank{'s' if world_size > 1 else ''} × trainer.accumulate_grad_batches {accumulate} = {parts}",
            f"use {near}, for instance",
        )
    return batch_size // parts


class GlobalBatches(Sampler[list[Key]]):
    """Batches of keys for one rank.

    An epoch is one order of all samples, shuffled by seed and epoch or as they come. It is cut into global batches, and
    each of these into `accumulate` micro-batches of `world_size` parts. Every sample occurs once. The last global batch
    may be smaller, and ranks left without a sample get a filler.

    Args:
        size: Number of samples.
        micro: Samples per rank and micro-batch.
        accumulate: Micro-batches per optimizer step.
        rank: This rank, from 0.
        world_size: Number of ranks.
        shuffle: Whether to shuffle the samples.
        seed: Seed of the order.
        lengths: Tokens of each sample, to make batches of samples of similar length; None for batches in order.
        reshuffle: Whether each epoch draws a new order; otherwise all have the order of the first.
    """

    POOL = 64  # global batches sorted by length together: enough to save padding, few enough to stay random

    def __init__(
        self,
        size: int,
        micro: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = False,
        seed: int = 0,
        lengths: Sequence[int] | None = None,
        reshuffle: bool = True,
    ) -> None:
        self.size, self.micro, self.accumulate, self.rank, self.world_size = size, micro, accumulate, rank, world_size
        self.shuffle, self.seed, self.lengths = shuffle, seed, None if lengths is None else np.asarray(lengths)
        self.reshuffle = reshuffle
        self.epoch, self.skip = 0, 0
        self.sampler = self  # Lightning tells `batch_sampler.sampler` the epoch

    @property
    def batch_size(self) -> int:
        """Samples per rank and micro-batch."""
        return self.micro

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def resume_at(self, epoch: int, batches: int) -> None:
        """Makes `epoch` the next one, without its first `batches` batches."""
        self.epoch, self.skip = epoch, batches

    def __len__(self) -> int:
        step = self.micro * self.world_size
        full, rest = divmod(self.size, step * self.accumulate)
        return full * self.accumulate + -(-rest // step)

    def order(self) -> list[np.ndarray]:
        """The global batches of this epoch, as positions."""
        step = self.micro * self.world_size * self.accumulate
        rng = np.random.default_rng((self.seed, self.epoch if self.reshuffle else 0))
        order = rng.permutation(self.size) if self.shuffle else np.arange(self.size)
        if self.lengths is None:
            return [order[i : i + step] for i in range(0, self.size, step)]
        batches: list[np.ndarray] = []
        pool = step * self.POOL if self.shuffle else self.size
        for start in range(0, self.size, pool):
            chunk = order[start : start + pool]
            chunk = chunk[np.argsort(-self.lengths[chunk], kind="stable")]
            batches += [chunk[i : i + step] for i in range(0, len(chunk), step)]
        if self.shuffle:
            ragged = [b for b in batches if len(b) < step]
            batches = [b for b in batches if len(b) == step]
            batches = [batches[i] for i in rng.permutation(len(batches))] + ragged  # the smaller batch comes last
        return batches

    def __iter__(self) -> Iterator[list[Key]]:
        yield from islice(self._batches(), self.skip, None)

    def _batches(self) -> Iterator[list[Key]]:
        step = self.micro * self.world_size
        for batch in self.order():
            for start in range(0, len(batch), step):
                yield self.part(batch[start : start + step])

    def part(self, step: np.ndarray, compared: bool = True, generated: bool = False) -> list[Key]:
        """This rank's keys of one step's samples; a filler if no sample is left for this rank."""
        mine = np.array_split(step, self.world_size)[self.rank]
        if len(mine):
            return [Key(int(p), self.epoch, True, compared, generated) for p in mine]
        return [Key(int(step[0]), self.epoch, False, compared, generated)]
