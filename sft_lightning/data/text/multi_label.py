"""Your own texts with sets of labels: any number of labels for each text, from files or the hub."""

from typing import Any

import numpy as np

from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.split_column import divided
from sft_lightning.data.text.base import TextRows
from sft_lightning.data.text.files import Table, read_table
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.set_columns import SetColumns, no_shots, sets_said
from sft_lightning.data.text.table import TextTable


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
        self.sets = SetColumns(
            label_column, label_separator, label_columns, labels, "TextTable for one decision a text"
        )
        no_shots(self.shots_per_class)

    def _divided(self, tables: dict[str, Table]) -> dict[str, Table]:
        return divided(tables, self.text_column, self.pair_column, self.label_column, *(self.sets.label_columns or ()))

    def unlabelled(self, table: Table) -> bool:
        return self.sets.unlabelled(table)

    def load(self) -> Splits:
        tables = self._tables()
        train, notes = tables["train"], Notes()
        if self.skips:
            self._texts_of(train)  # a row that is left out names no label
        names, found = self.sets.read(tables, notes)
        rows = {split: self._labelled(table, found[split]) for split, table in tables.items()}
        said = list(dict.fromkeys(note for table in tables.values() for note in table.notes))
        return Splits(rows["train"], rows.get("val"), rows.get("test"), names, [*said, *notes.lines()])

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
        return f"{line}; {sets_said(self.task_info.labels, train.targets)}"
