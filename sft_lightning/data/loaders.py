"""Builds one rank's data loader of a split: the order of its batches, and the loader that fetches them."""

import sys
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader

from sft_lightning.core.signals import ignore_in_worker
from sft_lightning.core.structures import Batch
from sft_lightning.data.drawn import EvenBatches
from sft_lightning.data.sampler import GlobalBatches, micro_batch_size
from sft_lightning.data.split import Split


def training_order(
    split: Split, batch_size: int, rank: int, world_size: int, accumulate: int, seed: int, reshuffle: bool
) -> GlobalBatches:
    """Shuffled order of batches, new for each epoch if `reshuffle`. `batch_size` is per optimizer step, over all ranks."""
    return GlobalBatches(
        len(split),
        micro_batch_size(batch_size, world_size, accumulate),
        accumulate,
        rank,
        world_size,
        shuffle=True,
        seed=seed,
        lengths=lengths_of(split),
        reshuffle=reshuffle,
    )


def measuring_order(
    split: Split, micro: int, rank: int, world_size: int, number: int, compared: int | None, generated: int | None = 0
) -> GlobalBatches:
    """Order of `number` samples, `micro` per rank and batch; those on which networks are `compared`, or for which texts are
    `generated`, come first.
    """
    return EvenBatches(len(split), micro, rank, world_size, lengths_of(split), number, compared, generated)


def lengths_of(split: Split) -> Any:
    """`[R]` tokens of each of the split's samples; None if batches are not grouped by length."""
    lengths = split.samples.lengths()
    return None if lengths is None else lengths[split.rows]


def loader_of(split: Split, order: GlobalBatches, num_workers: int, seed: int) -> DataLoader[Batch]:
    """Builds a loader whose batches and random draws depend on order and seed alone."""
    return DataLoader(
        split,
        batch_sampler=order,
        num_workers=num_workers,
        collate_fn=_as_is,
        persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(seed),  # else each iteration would draw from the global one
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="fork" if num_workers and not torch.cuda.is_available() else None,
        worker_init_fn=ready_worker if num_workers else None,
    )


def ready_worker(number: int = 0) -> None:
    """Makes a process that loads data ignore signals, and stay silent where the process that it loads for has hung up.

    That one ends for a reason of its own, which it prints. A tensor on its way there would add a traceback.
    """
    ignore_in_worker(number)
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            before(kind, error, trace)

    sys.excepthook = hook


def _as_is(batch: Any) -> Any:
    return batch
