"""Collects a classifier's prediction for each sample, to count confusions and to compare two networks by sample."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.structures import Batch, Output
from sft_lightning.tasks.base import at_least_single

UNKNOWN = -1


class Predictions(NamedTuple):
    """Predictions for N samples, sorted by row, each sample once. Arrays `[N]`."""

    rows: np.ndarray
    """Row numbers, which identify samples"""
    targets: np.ndarray
    """True classes; UNKNOWN if the samples are labelled for another task than the classifier's"""
    classes: np.ndarray
    """Predicted classes"""
    confidences: np.ndarray
    """Probabilities of the predicted classes, in [0, 1]"""


class Answers:
    """Collects predictions batch by batch."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, ...]] = []

    def take(self, batch: Batch, output: Output) -> None:
        """Adds an output's logits for a batch that has labels."""
        self.add(batch, output.logits)

    @torch.no_grad()
    def add(self, batch: Batch, logits: Tensor, known: bool = True) -> None:
        """Adds `logits[N, C]` of a batch's N samples; `known`: whether `batch['y']` are their true classes."""
        index, real = batch["index"], batch.get("real")
        rows = index if real is None else index[real]
        classes = logits.argmax(-1)
        confidences = at_least_single(logits).softmax(-1).gather(-1, classes[:, None])[:, 0]
        targets = batch["y"] if known else torch.full_like(rows, UNKNOWN)
        self._parts.append(tuple(t.cpu() for t in (rows, targets, classes, confidences)))

    def said(self) -> Predictions:
        """All predictions that were added on this rank."""
        none = torch.zeros(0, dtype=torch.int64)
        columns = zip((none, none, none, torch.zeros(0)), *self._parts, strict=True)
        return merged([Predictions(*(torch.cat(c).numpy() for c in columns))])


def merged(parts: Sequence[Predictions]) -> Predictions:
    """Merges the predictions of several ranks."""
    together = Predictions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    first = np.unique(together.rows, return_index=True)[1]
    return Predictions(*(column[first] for column in together))


def of_both(one: Predictions, other: Predictions) -> tuple[Predictions, Predictions]:
    """Both, reduced to the samples that both have: a sample that fails to be read at times may be missing in one."""
    at = np.intersect1d(one.rows, other.rows, assume_unique=True, return_indices=True)[1:]
    first, second = (Predictions(*(c[i] for c in said)) for said, i in zip((one, other), at, strict=True))
    return first, second


def confusion(said: Predictions, classes: int) -> list[list[int]]:
    """Numbers of samples: `[true class][predicted class]`."""
    pairs = said.targets.astype(np.int64) * classes + said.classes
    counts: list[list[int]] = np.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist()
    return counts
