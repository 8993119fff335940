"""Decides which samples are in which split: the classes kept, the rows set aside, the labelled subset and its folds."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.data.samples import Samples
from sft_lightning.data.split import Split
from sft_lightning.data.subset import cut, folds, share, shots, shots_of_types, strata


@dataclass(frozen=True)
class Classes:
    """The classes that are kept, in their order."""

    labels: list[str]
    numbers: list[int] | None
    """Each class's number in the data; None if all classes are kept as they are"""

    @property
    def names(self) -> dict[int, str]:
        """Labels by the number in the data, in the order of `labels`."""
        return dict(
            zip(self.numbers if self.numbers is not None else range(len(self.labels)), self.labels, strict=True)
        )

    def rows(self, samples: Samples) -> np.ndarray:
        """Row numbers of the samples of these classes, ascending, and of those that loading refused; all if samples have
        sets of labels.
        """
        if self.numbers is None or samples.targets is None or samples.targets.ndim > 1:
            return np.arange(len(samples))
        refused = [-1] if samples.bad_rows() else []  # a row whose label cannot be used has no class
        return np.flatnonzero(np.isin(samples.targets, [*self.numbers, *refused]))

    def split(self, samples: Samples, rows: np.ndarray, train: bool, name: str) -> Split:
        """Rows of samples with their targets, numbered in the order of `labels`."""
        targets = samples.targets
        if targets is not None:
            targets = targets[rows]
            if self.numbers is not None and targets.ndim > 1:
                targets = np.ascontiguousarray(targets[:, self.numbers])
            elif self.numbers is not None:
                table = {n: i for i, n in enumerate(self.numbers)}
                targets = np.array([table[int(t)] for t in targets], dtype=np.int64)
        return Split(samples, rows, targets, train, name)


def choose_classes(wanted: Sequence[str | int] | None, labels: list[str]) -> Classes:
    """Chooses classes by label or number; all for None. Raises UserError for one that does not exist or occurs twice."""
    if wanted is None:
        return Classes(labels, None)
    if not labels:
        raise UserError("data.classes", "the data has no labelled classes", "leave it null")
    numbers = []
    numeric = any(re.fullmatch(r"[-+]?[\d.]+", label) for label in labels)  # a number would name another class
    for one in wanted:
        name = str(one)
        if name in labels:
            numbers.append(labels.index(name))
        elif isinstance(one, int) and 0 <= one < len(labels) and not numeric:
            numbers.append(one)
        else:
            some = ", ".join(labels[:12]) + (", …" if len(labels) > 12 else "")
            raise UserError("data.classes", f"there is no class '{one}', only {some}")
    if len(set(numbers)) != len(numbers):
        raise UserError("data.classes", f"names a class twice: {list(wanted)}", "name each class once")
    return Classes([labels[n] for n in numbers], numbers)


GROUPS = "groups of samples that stay together"
"""What messages call groups"""


@dataclass(frozen=True)
class Partition:
    """Shares out the usable training rows; the fields are arguments of `SFTDataModule`.

    `targets` are the class numbers of all samples, by row number; None if the task has no classes.
    """

    val_fraction: float
    test_fraction: float | None
    shots_per_class: int | None
    train_fraction: float | None
    subset_seed: int
    folds: int | None
    fold: int | None
    groups: np.ndarray | None = None
    """`Samples.groups`: then all of this is done with groups instead of rows, and fractions are of groups"""

    def set_test_aside(self, rows: np.ndarray, targets: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        """(the rest, rows to test on); None without a `test_fraction`."""
        if self.test_fraction is None:
            return rows, None
        return self._cut(rows, targets, self.test_fraction, "data.test_fraction")

    def set_val_aside(self, rows: np.ndarray, targets: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """(the rest, rows to validate on)"""
        return self._cut(rows, targets, self.val_fraction, "data.val_fraction")

    def _cut(
        self, rows: np.ndarray, targets: np.ndarray | None, fraction: float, where: str
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.groups is None:
            return cut(rows, strata(targets, rows), fraction, where)
        rest, part = cut(np.unique(self.groups[rows]), None, fraction, where, GROUPS)
        return self._of(rest, rows), self._of(part, rows)

    def _of(self, groups: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Those of the rows that are in these groups."""
        assert self.groups is not None
        return rows[np.isin(self.groups[rows], groups)]

    def draw(
        self,
        rows: np.ndarray,
        targets: np.ndarray | None,
        names: Mapping[int, str],
        types: Callable[[], Sequence[Collection[str]] | None] = lambda: None,
        unit: str = "samples",
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(rows to train on, the fold held out to validate on or None), both of the labelled subset of `rows`.

        `names` are the classes' labels by number, in the order in which shots are drawn. `types` returns those
        in each sample, by row number, if samples have several and no class; shots are then drawn of each type. `unit` is
        what messages call rows.
        """
        if self.groups is not None:
            ungrouped = replace(self, groups=None)
            kept, held_out = ungrouped.draw(np.unique(self.groups[rows]), None, names, unit=GROUPS)
            return self._of(kept, rows), None if held_out is None else self._of(held_out, rows)
        if self.train_fraction is not None and self.train_fraction < 1:
            rows = share(rows, strata(targets, rows), self.train_fraction, self.subset_seed, len(names))
        elif self.shots_per_class is not None and targets is None and (found := types()) is not None:
            rows = shots_of_types(rows, found, self.shots_per_class, self.subset_seed)
        elif self.shots_per_class is not None:
            rows = shots(rows, targets, self.shots_per_class, self.subset_seed, names)
        parts = [] if self.folds is None else folds(rows, targets, self.folds, self.subset_seed, names, unit)
        if self.fold is None:
            return rows, None
        return np.setdiff1d(rows, parts[self.fold]), parts[self.fold]
