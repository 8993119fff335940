"""Packs the samples of a micro-batch into shared rows: where each begins, and how much padding that saves.

The batch itself keeps one row per sample. The network joins the rows before its encoder, and takes them apart after it
(see `networks/packed.py`). So which samples are in a step, their order, items and predictions are the same as without
packing.
"""

from collections.abc import Iterable, Sequence

import numpy as np

SAMPLED = 200
"""Micro-batches on which padding is measured"""


def layout(lengths: Sequence[int], capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, first place in it) of each sample, int64 `[B]`, by first fit in order of decreasing length.

    Each sample goes into the first row that has room for it. Samples of equal length keep their order, so that the layout
    depends on nothing but the lengths. If a row for each sample needs no more padding, as for samples of one length, each
    gets its own.

    Args:
        lengths: Tokens of each sample.
        capacity: Most tokens of a row; a longer sample has a row of its own.
    """
    rows, starts, filled = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64), list[int]()
    for sample in np.argsort(-np.asarray(lengths), kind="stable"):
        length = int(lengths[sample])
        row = next((r for r, taken in enumerate(filled) if taken + length <= capacity), len(filled))
        if row == len(filled):
            filled.append(0)
        rows[sample], starts[sample] = row, filled[row]
        filled[row] += length
    if len(filled) * max(filled) >= len(lengths) * max(lengths):
        return np.arange(len(lengths)), np.zeros(len(lengths), np.int64)
    return rows, starts


def padding(batches: Iterable[np.ndarray], capacity: int | None) -> tuple[float, float]:
    """Shares of padding among a network's tokens: (with a row for each sample, with packed rows).

    Args:
        batches: Tokens of the samples of each micro-batch.
        capacity: Most tokens of a row; None for the longest sample.
    """
    tokens = apart = together = 0
    for lengths in batches:
        longest = int(lengths.max())
        rows, starts = layout(lengths.tolist(), capacity or longest)
        tokens += int(lengths.sum())
        apart += len(lengths) * longest
        together += (int(rows.max()) + 1) * int((starts + lengths).max())
    return 1 - tokens / max(apart, 1), 1 - tokens / max(together, 1)
