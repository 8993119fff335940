"""What a data set loads: samples that can be fetched by row number, in splits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sft_lightning.data.sampler import Key


class Samples(ABC):
    """Samples of one split as they lie in memory or on disk, before subsetting. Row numbers name samples."""

    targets: np.ndarray | None
    """`[rows]` class numbers or values; None where unlabelled or where the target is part of the sample."""
    skips: bool = False
    """Whether samples that cannot be read are left out; else the first of them ends the run."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """Network inputs of these rows, batched, in a dict; samples with items of their own, such as tokens, add `select` (bool
        `[B, T]`) and `y` (their targets).

        Raises BadSample naming rows that cannot be read.
        """

    @abstractmethod
    def digest(self) -> bytes:
        """Hash of the content."""

    def lengths(self) -> np.ndarray | None:
        """Tokens of each row where batches may be grouped by length."""
        return None

    def contents(self) -> np.ndarray | None:
        """`[rows]` uint64, equal where two rows show the same, whatever their labels; None where that is not known."""
        return None

    def bad_rows(self) -> dict[int, str]:
        """Rows that loading found to be unusable, and why: they are in no split."""
        return {}

    def name(self, row: int) -> str:
        """What to call a row in a message."""
        return f"sample {row}"


@dataclass
class Splits:
    """What a data set loads. `val` and `test` may be missing; the labels are in class order."""

    train: Samples
    val: Samples | None = None
    test: Samples | None = None
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What reading guessed, converted or left out, one line each"""

    def each(self) -> list[Samples]:
        """The samples of every split that there is."""
        return [samples for samples in (self.train, self.val, self.test) if samples is not None]
