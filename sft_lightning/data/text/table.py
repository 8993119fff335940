"""Your own texts: any labelled CSV, TSV, JSON, JSONL or parquet file, or any such data set on the hub."""

from typing import Any, Literal

import numpy as np

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.split_column import divided
from sft_lightning.data.text.base import TextData, TextRows
from sft_lightning.data.text.files import Table, check_hub, hub_tables, read_table
from sft_lightning.data.text.labels import all_unlabelled, class_names, class_numbers


class TextTable(TextData):
    """Texts, or pairs of texts, with one label or value each, from files or the hub.

    Args:
        path: Name of a data set on the hub, where its splits train, validation and test are taken; null for files.
        config: Which of the hub data set's configurations.
        train: File with the training samples (.csv, .tsv, .json, .jsonl, .parquet).
        val: File with the validation samples; default a share of the training samples.
        test: File with the test samples.
        predict: File to predict on; it needs no labels, and predicting needs no training data.
        text_column: Column with the texts.
        pair_column: Column with second texts; null if a sample is one text.
        label_column: Column with the labels, names or numbers, or with the values of a regression.
        labels: All classes in order; default the names the file gives, else the training labels, sorted.
        task: Whether a label is a class or a number.
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
        label_column: str = "label",
        labels: list[str] | None = None,
        task: Literal["classification", "regression"] = "classification",
        max_length: int | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_length=max_length, group_by_length=group_by_length, **kwargs)
        check_arguments(TextTable.__init__, locals())
        self.path, self.config, self.labels = path, config, labels
        self.files = {"train": train, "val": val, "test": test, "predict": predict}
        self.text_column, self.pair_column, self.label_column = text_column, pair_column, label_column
        if path is not None and train is not None:
            raise UserError(
                "data", "path (a data set on the hub) and train (a file) are both set", "set only one of them"
            )
        check_hub(self.path, self.config, self.files)
        if labels is not None and task == "regression":
            raise UserError(
                "data.labels", "names the classes of a classification, but data.task is regression", "leave it null"
            )
        if labels is not None and len(set(map(str, labels))) != len(labels):
            raise UserError(
                "data.labels", f"names a class twice: {', '.join(map(str, labels))}", "name each class once"
            )
        self.task_name = task

    def _tables(self) -> dict[str, Table]:
        if self.path is not None:
            hub = hub_tables(self.path, self.config, skip=self.skips)
            if "train" not in hub:
                raise UserError(
                    "data.path", f"{self.path} has no split train, only {', '.join(hub)}", "use another data set"
                )
            tables = {
                ours: hub[theirs] for ours, theirs in (("train", "train"), ("val", "validation")) if theirs in hub
            }
            if "test" in hub and not self.unlabelled(hub["test"]):
                tables["test"] = hub["test"]
            elif "test" in hub:  # absent or -1, as in many competitions
                tables["train"].notes.append(f"{hub['test'].where} has no labels, and is left out")
            return tables
        if self.files["train"] is None:
            needs = f"{type(self).__name__} needs train (a file) or path (a data set on the hub)"
            raise UserError("data", needs, "set one of them")
        named = {n: f for n, f in self.files.items() if f is not None and n != "predict"}
        tables = self._divided({n: read_table(f, f"data.{n}", self.skips) for n, f in named.items()})
        for name, table in list(tables.items()):
            if name != "train" and self.unlabelled(table):
                if name in named:
                    raise no_labels(name, table, self.label_column)
                del tables[name]  # a part of the training file, by its column `split`
                tables["train"].notes.append(f"{table.where}: no row of {name} has a label, so they are left out")
        return tables

    def _divided(self, tables: dict[str, Table]) -> dict[str, Table]:
        return divided(tables, self.text_column, self.pair_column, self.label_column)

    def unlabelled(self, table: Table) -> bool:
        """Whether all labels of a table are missing."""
        return all_unlabelled(table, self.label_column)

    def load(self) -> Splits:
        tables = self._tables()
        train = tables["train"]
        classes: list[str] = []
        if self.skips:
            self._texts_of(train)  # a row that is left out names no class
        if self.task_name == "classification":
            classes = class_names(train, self.label_column, self.labels)
        numbered = self.labels is not None or self.label_column in train.names
        rows = {name: self._rows_of(table, classes, numbered) for name, table in tables.items()}
        notes = list(dict.fromkeys(note for table in tables.values() for note in table.notes))
        return Splits(rows["train"], rows.get("val"), rows.get("test"), classes, notes)

    def load_for_prediction(self) -> Samples | None:
        """Reads the file `predict` without its labels."""
        file = self.files["predict"]
        return None if file is None else self._rows_of(read_table(file, "data.predict", self.skips), None)

    def _texts_of(self, table: Table) -> tuple[list[str], list[str] | None]:
        text = table.texts(self.text_column, "data.text_column")
        return text, table.texts(self.pair_column, "data.pair_column") if self.pair_column else None

    def _rows_of(self, table: Table, classes: list[str] | None, numbered: bool = False) -> TextRows:
        text, pair = self._texts_of(table)
        targets: np.ndarray | None = None
        if classes is not None and self.task_name == "classification":
            for column in (self.text_column, self.pair_column):
                if column is not None:
                    check_swallowed(table, column, classes)
            targets = class_numbers(table, self.label_column, classes, numbered)
        elif classes is not None:
            targets = table.numbers(self.label_column, "data.label_column")
        return TextRows(text, pair, targets, table)


def no_labels(name: str, table: Table, column: str) -> UserError:
    """The error for a validation or test file without a single label."""
    if column in table.columns:
        what = f"has no labels: column '{column}' is empty, or -1, in every row"
    else:
        what = f"has no column '{column}'{nearest(column, table.columns)}, so no labels"
    fix = f"leave data.{name} out, and set data.{name}_fraction to use a share of train"
    return UserError(f"data.{name}", f"{table.where} {what}", fix)


def check_swallowed(table: Table, column: str, classes: list[str]) -> None:
    """Raises UserError if a text of a delimited file holds whole rows, which a stray quotation mark joins: all of its
    lines but one end, or all but one begin, with a class and a delimiter.
    """
    if table.lines is None or not table.where.lower().endswith((".csv", ".tsv")):
        return
    names = tuple(classes)
    ends = tuple(f"{mark}{name}" for name in names for mark in ",;|\t")
    begins = tuple(f"{name}{mark}" for name in names for mark in ",;|\t")
    for row, text in enumerate(table.columns[column]):
        if not isinstance(text, str) or "\n" not in text:
            continue
        lines = [line.rstrip("\r").replace('"', "") for line in text.strip("\n").split("\n")]
        if len(lines) > 1 and (
            all(line.endswith(ends) for line in lines[:-1]) or all(line.startswith(begins) for line in lines[1:])
        ):
            why = f"column '{column}' holds {len(lines)} lines with their labels: a quotation mark is not closed or doubled"
            table.refuse(row, UserError("data", f"{table.name(row)}: {why}", "close or double it"))
