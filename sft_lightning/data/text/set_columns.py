"""How a table's sets of labels are read for all splits: what data modules of texts and of images share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.findings import class_counts
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.label_sets import (
    INDICATORS,
    NAMES,
    Labels,
    find_separator,
    indicator_columns,
    indicators,
    label_names,
    read_sets,
    set_targets,
)
from sft_lightning.data.text.labels import all_unlabelled, is_list
from sft_lightning.data.text.notes import Notes

NAMED = 6
"""Labels that `sets_said` names"""


@dataclass(frozen=True)
class SetColumns:
    """The columns that hold sets of labels. Raises UserError for arguments without effect."""

    label_column: str | None
    """Column of lists, or of names with a separator between; None for `labels`"""
    label_separator: str | None
    """What stands between names; None for what the training table uses"""
    label_columns: list[str] | None
    """Columns of 0 and 1; None for one column"""
    labels: list[str] | None
    """All labels in order; None for those that the table names or uses"""
    otherwise: str
    """The data module for one label a sample, and the word for a sample: `TextTable for one decision a text`"""

    def __post_init__(self) -> None:
        without_effect = {
            "label_column": self.label_column,
            "label_separator": self.label_separator,
            "labels": self.labels,
        }
        for name, value in without_effect.items() if self.label_columns is not None else ():
            if value is not None:
                raise UserError(
                    f"data.{name}",
                    "has no effect with data.label_columns, whose names are the labels",
                    "set only one of them",
                )
        if self.label_columns is not None and not self.label_columns:
            raise UserError("data.label_columns", "names no column", "name the columns of labels, or leave it null")
        if self.label_separator is not None and not self.label_separator:
            raise UserError("data.label_separator", "must have a character", "set it to ; for instance")

    @property
    def column(self) -> str:
        """The one column of labels, if labels are in one."""
        return self.label_column or "labels"

    def unlabelled(self, table: Table) -> bool:
        """Whether a table has no labels at all."""
        if self.label_columns is None:
            return all_unlabelled(table, self.column)
        stems = [name.removesuffix("*") for name in self.label_columns]
        return not any(column.startswith(stem) for column in table.columns for stem in stems)

    def read(self, tables: Mapping[str, Table], notes: Notes) -> tuple[list[str], dict[str, np.ndarray]]:
        """(all labels in order, whether each applies to each row: uint8 `[rows, C]` by split). Rows that cannot be used are
        refused in their tables. Raises UserError for fewer than two labels.
        """
        train = tables["train"]
        if self.label_columns is not None:
            names = indicator_columns(train, self.label_columns)
            found = {split: indicators(table, names) for split, table in tables.items()}
        else:
            train.column(self.column, "data.label_column")
            separator = self.label_separator or find_separator(train, self.column)
            if self.label_separator is not None and all(
                isinstance(v, list) or missing(v) for v in train.columns[self.column]
            ):
                what = f"has no effect, because column '{self.column}' of {train.where} holds lists"
                raise UserError("data.label_separator", what, "leave it null")
            sets: dict[str, list[Labels | None]] = {
                split: read_sets(table, self.column, separator, notes) for split, table in tables.items()
            }
            if label_names(sets["train"]) == ["0", "1"] and all(len(of) == 2 for of in sets["train"] if of is not None):
                raise UserError("data", f"{train.where}: each row of column '{self.column}' has {INDICATORS}", NAMES)
            listed = self.labels or train.names.get(self.column)
            names = [str(name) for name in listed or label_names(sets["train"])]
            found = {
                split: set_targets(table, sets[split], names, listed is not None, table.names.get(self.column))
                for split, table in tables.items()
            }
            train.notes.append(self.said(separator, sets["train"], train))
        if len(names) < 2:
            only = f"1 label ({names[0]})" if names else "no labels"
            raise UserError(
                "data",
                f"{train.where} has {only}, but at least 2 are needed",
                f"use {self.otherwise}, or name another column by data.label_column",
            )
        return names, found

    def said(self, separator: str | None, sets: list[Labels | None], train: Table) -> str:
        """How the column of labels was read."""
        if separator is not None:
            how = "given" if self.label_separator else "found; data.label_separator sets another"
            if not any(isinstance(v, str) and separator in v for v in train.columns[self.column]):
                how += f", but no cell of {train.where} has it"
            return f"labels in column '{self.column}' are separated by '{separator}' ({how})"
        if any(isinstance(v, list) or (isinstance(v, str) and is_list(v)) for v in train.columns[self.column]):
            return f"labels in column '{self.column}' are lists"
        most = (
            "one label in every row"
            if all(labels is None or labels for labels in sets)
            else "at most one label in a row"
        )
        return f"column '{self.column}' has {most}; data.label_separator sets what separates several"


def no_shots(shots_per_class: int | None) -> None:
    """Raises UserError for `shots_per_class`, which cannot be met with several labels a sample."""
    if shots_per_class is not None:
        raise UserError(
            "data.shots_per_class",
            "cannot choose samples with several labels each",
            "use data.train_fraction",
        )


def sets_said(names: Sequence[str], targets: np.ndarray, one: str = "sample") -> str:
    """The labels, how many a training sample has, and how many samples have none, of `targets[R, C]`."""
    counts = class_counts(targets, len(names)).tolist()
    shown = ", ".join(f"{n} {c:,}" for n, c in zip(names[:NAMED], counts, strict=False))
    of_samples = targets.sum(1, dtype=np.int64)
    line = f"{plural(len(names), 'label')} ({shown}{', …' if len(names) > NAMED else ''})"
    line += f", {of_samples.mean():.2f} {'an' if one[0] in 'aeiou' else 'a'} {one}"
    empty = int((of_samples == 0).sum())
    return f"{line}, {plural(empty, f'training {one}')} without any" if empty else line
