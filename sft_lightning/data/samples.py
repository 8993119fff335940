"""The interface of loaded data: samples that are fetched by row number, in splits."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.core.structures import TaskInfo, Texts
from sft_lightning.data.sampler import Key


class Samples(ABC):
    """Samples of one split as they lie in memory or on disk, before subsetting. Row numbers identify them."""

    targets: np.ndarray | None
    """`[rows]` class numbers or values; None if unlabelled or if the target is part of the sample."""
    one_item_each: bool = False
    """Whether a sample is one item although `fetch` adds `select`: a question with the choices that it selects. Then there
    is one target for each sample. Otherwise each position that is selected is an item."""
    skips: bool = False
    """Whether samples that cannot be read are left out; otherwise the first of them ends the run."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """Fetches the network inputs of these rows as one batch, a dict. Samples that consist of items, such as tokens, add
        `select` (bool, `[B, T]` or more dimensions) and `y` (the items' targets; `targets` if it is absent), and `bytes` (int64
        `[B]`) if they know the text behind them. Samples that are annotated in part add `covered` (see `Batch`).

        Raises BadSample with the rows that cannot be read.
        """

    @abstractmethod
    def digest(self) -> bytes:
        """Hash of the content."""

    def prompts(self, rows: Sequence[int]) -> dict[str, Any]:
        """`prompt` and `references` of these rows, from which a network generates texts (see `Batch`); empty if it does not."""
        return {}

    def beside(self, rows: Sequence[int]) -> Texts | None:
        """What the task reads on the host about each of these rows, such as the text that an answer is cut from; None for
        nothing.
        """
        return None

    def groups(self) -> np.ndarray | None:
        """`[rows]` group numbers: rows of one group, such as questions about one text, are never in two splits. None if rows
        are independent.
        """
        return None

    def lengths(self) -> np.ndarray | None:
        """Tokens of each row; None if batches are not grouped by length."""
        return None

    def contents(self) -> np.ndarray | None:
        """`[rows]` uint64, equal if two rows have the same content, whatever their labels; None if unknown."""
        return None

    def shown(self, row: int) -> dict[str, Any]:
        """A sample as it is stored, for pages: `text`, or `words` (a list); empty for images and the like."""
        return {}

    def raw(self, row: int) -> dict[str, Any]:
        """A sample as a user has it, before any preparation, to try an export on.

        It has `text` and `pair`, `words`, `question` and `context`, `first` and `second` (the two texts of each choice),
        `image` (uint8 `[C, H, W]`) or `sound` (float32 `[T]`, at the network's rate). It is empty if an export alone cannot
        prepare a sample as the data do.
        """
        return {}

    def rewritten(self, write: Callable[[list[str], int], list[str]], rows: Sequence[int]) -> "Samples | None":
        """A copy in which `write(texts, row)` has replaced the texts of these rows; None for samples that are more than texts
        with targets for the whole or for each word.
        """
        return None

    def types_in(self) -> Sequence[frozenset[str]] | None:
        """For samples of several types, such as sentences with entities, the types in each row; None for others."""
        return None

    def bad_rows(self) -> dict[int, str]:
        """Rows that loading found unusable, and why; they are in no split."""
        return {}

    def completed(self, row: int, prediction: dict[str, Any], task: TaskInfo | None) -> dict[str, Any]:
        """Adds to a row's prediction what only the data know, such as the text of the chosen choice, or places in a text."""
        return prediction

    def filed(self, row: int, prediction: dict[str, Any], folder: Path, task: TaskInfo | None) -> dict[str, Any]:
        """Writes what is no text, such as a mask, to files below `folder`, and names them in the prediction instead."""
        return prediction

    def summed(self, rows: Sequence[dict[str, Any]], folder: Path, task: TaskInfo | None) -> None:  # noqa: B027
        """Writes what all predictions give together, such as a list in another library's format, to a file in `folder`."""

    def name(self, row: int) -> str:
        """The row's name in messages."""
        return f"sample {row}"


@dataclass
class Splits:
    """The splits that a data set loads. `val` and `test` may be missing; the labels are in class order."""

    train: Samples
    val: Samples | None = None
    test: Samples | None = None
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What reading guessed, converted or left out, one line each"""

    def each(self) -> list[Samples]:
        """The samples of each split that is present."""
        return [samples for samples in (self.train, self.val, self.test) if samples is not None]
