"""Your own texts with sets of labels: any number of labels for each text, from files or the hub."""

from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.findings import class_counts
from sft_lightning.data.text.base import TextRows
from sft_lightning.data.text.files import Table, read_table
from sft_lightning.data.text.label_sets import (
    Labels,
    find_separator,
    indicator_columns,
    indicators,
    label_names,
    read_sets,
    set_targets,
)
from sft_lightning.data.text.labels import all_unlabelled
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.table import TextTable

NAMED = 6
"""Labels that `describe` names"""


class MultiLabelTable(TextTable):
    """Texts, or pairs of texts, each with a set of labels, which may be empty, from files or the hub.

    The labels are a list in one column, names in one column with a separator between, or columns of 0 and 1. Subsets and
    validation splits are drawn at random, not by label.

    Args:
        path: Name of a data set on the hub, where its splits train, validation and test are taken; null for files.
        config: Which of the hub data set's configurations.
        train: File with the training samples (.csv, .tsv, .json, .jsonl, .parquet).
        val: File with the validation samples; default a share of the training samples.
        test: File with the test samples.
        predict: File to predict on; it needs no labels, and predicting needs no training data.
        text_column: Column with the texts.
        pair_column: Column with second texts; null if a sample is one text.
        label_column: Column with the sets of labels, as lists or with a separator between; default labels.
        label_separator: What stands between the labels of a cell; default the one of ; | , and tab that the training
            file uses.
        label_columns: Columns of 0 and 1, one for each label; a name that ends in * stands for all columns that begin so.
        labels: All labels in order; default the names the file gives, else those of the
            training samples, sorted.
        max_length: Most tokens of a sample, special ones included; longer samples are truncated; default the network's.
        group_by_length: Make batches of samples of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    def __init__(
        self,
        path: str | None = None,
        config: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        text_column: str = "text",
        pair_column: str | None = None,
        label_column: str | None = None,
        label_separator: str | None = None,
        label_columns: list[str] | None = None,
        labels: list[str] | None = None,
        max_length: int | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            path=path,
            config=config,
            train=train,
            val=val,
            test=test,
            predict=predict,
            text_column=text_column,
            pair_column=pair_column,
            label_column=label_column or "labels",
            labels=labels,
            max_length=max_length,
            group_by_length=group_by_length,
            **kwargs,
        )
        check_arguments(MultiLabelTable.__init__, locals())
        self.task_name = "multi_label"
        self.label_separator, self.label_columns = label_separator, label_columns
        without_effect = {"label_column": label_column, "label_separator": label_separator, "labels": labels}
        for name, value in without_effect.items() if label_columns is not None else ():
            if value is not None:
                raise UserError(
                    f"data.{name}",
                    "has no effect with data.label_columns, whose names are the labels",
                    "set only one of them",
                )
        if label_columns is not None and not label_columns:
            raise UserError("data.label_columns", "names no column", "name the columns of labels, or leave it null")
        if label_separator is not None and not label_separator:
            raise UserError("data.label_separator", "must have a character", "set it to ; for instance")
        if self.shots_per_class is not None:
            raise UserError(
                "data.shots_per_class",
                "cannot choose samples with several labels each",
                "use data.train_fraction",
            )

    def unlabelled(self, table: Table) -> bool:
        if self.label_columns is None:
            return all_unlabelled(table, self.label_column)
        stems = [name.removesuffix("*") for name in self.label_columns]
        return not any(column.startswith(stem) for column in table.columns for stem in stems)

    def load(self) -> Splits:
        tables = self._tables()
        train, notes = tables["train"], Notes()
        if self.skips:
            self._texts_of(train)  # a row that is left out names no label
        found: dict[str, np.ndarray] = {}
        if self.label_columns is not None:
            names = indicator_columns(train, self.label_columns)
            found = {split: indicators(table, names) for split, table in tables.items()}
        else:
            train.column(self.label_column, "data.label_column")
            separator = self.label_separator or find_separator(train, self.label_column)
            sets: dict[str, list[Labels | None]] = {
                split: read_sets(table, self.label_column, separator, notes) for split, table in tables.items()
            }
            listed = self.labels or train.names.get(self.label_column)
            names = [str(name) for name in listed or label_names(sets["train"])]
            found = {
                split: set_targets(table, sets[split], names, listed is not None, table.names.get(self.label_column))
                for split, table in tables.items()
            }
            train.notes.append(self._said(separator, sets["train"], train))
        if len(names) < 2:
            only = f"1 label ({names[0]})" if names else "no labels"
            raise UserError(
                "data",
                f"{train.where} has {only}, but at least 2 are needed",
                "use TextTable for one decision a text, or name another column by data.label_column",
            )
        rows = {split: self._labelled(table, found[split]) for split, table in tables.items()}
        said = list(dict.fromkeys(note for table in tables.values() for note in table.notes))
        return Splits(rows["train"], rows.get("val"), rows.get("test"), names, [*said, *notes.lines()])

    def _said(self, separator: str | None, sets: list[Labels | None], train: Table) -> str:
        """How the column of labels was read."""
        if separator is not None:
            how = "given" if self.label_separator else "found; data.label_separator sets another"
            if not any(isinstance(v, str) and separator in v for v in train.columns[self.label_column]):
                how += f", but no cell of {train.where} has it"
            return f"labels in column '{self.label_column}' are separated by '{separator}' ({how})"
        if any(labels is not None and len(labels) != 1 for labels in sets):
            return f"labels in column '{self.label_column}' are lists"
        return (
            f"column '{self.label_column}' has one label in every row; data.label_separator sets what separates several"
        )

    def _labelled(self, table: Table, targets: np.ndarray) -> TextRows:
        text, pair = self._texts_of(table)
        return TextRows(text, pair, targets, table)

    def load_for_prediction(self) -> Samples | None:
        """Reads the file `predict` without its labels."""
        file = self.files["predict"]
        if file is None:
            return None
        table = read_table(file, "data.predict", self.skips)
        text, pair = self._texts_of(table)
        return TextRows(text, pair, None, table)

    def describe(self) -> str:
        """Adds the labels, how many a training sample has, and how many samples have none."""
        line, train = super().describe(), self.splits.get("train")
        if train is None or train.targets is None or self.task_info is None:
            return line
        names, counts = self.task_info.labels, class_counts(train.targets, len(self.task_info.labels))
        shown = ", ".join(f"{n} {c:,}" for n, c in zip(names[:NAMED], counts.tolist(), strict=False))
        of_samples = train.targets.sum(1, dtype=np.int64)
        line += f"; {plural(len(names), 'label')} ({shown}{', …' if len(names) > NAMED else ''})"
        line += f", {of_samples.mean():.2f} a sample"
        empty = int((of_samples == 0).sum())
        return f"{line}, {plural(empty, 'training sample')} without any" if empty else line
