"""Images that a table lists, with a class or numbers each."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.base import Splits
from sft_lightning.data.listed_files import file_column, groups_of, listed_files
from sft_lightning.data.split_column import by_split
from sft_lightning.data.text.files import Table, read_table
from sft_lightning.data.text.labels import class_names, class_numbers
from sft_lightning.data.vision.base import ImageData
from sft_lightning.data.vision.image_folder import FileImages
from sft_lightning.data.vision.listed import FILE_COLUMNS, ListedImages, images_at


class ListedData(ImageData, base=True):
    """Images that tables list (.csv, .tsv, .json, .jsonl, .parquet): a file and what is known of it in each row.

    Args:
        train: Table of the training images; alone, its column split (train, validation, test) divides it, if it has one.
        val: Table of the validation images; default a share of the training images.
        test: Table of the test images.
        predict: An image, or a folder of images, to predict on; predicting needs no training data.
        file_column: Column with the files; default the first of file_name, filename, file, image, image_path, path, img.
        image_root: Folder from which files are named; default that of each table.
        group_column: Column, such as patient, whose values are never in two splits that are cut from one table.
        **kwargs: Size and augmentation, subset, split, batches; see Digits.
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        file_column: str | None = None,
        image_root: str | None = None,
        group_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_arguments(ListedData.__init__, locals())
        self.files, self.predict, self.image_root = {"train": train, "val": val, "test": test}, predict, image_root
        self.file_column, self.group_column = file_column, group_column
        if image_root is not None and not Path(image_root).expanduser().is_dir():
            raise UserError("data.image_root", f"{image_root} is not a folder", "set it to an existing folder")

    def tables(self) -> dict[str, Table]:
        """The tables by split: a single one is divided by its column `split`, if that names splits. A row of train without a
        file is refused, so that it names no label.
        """
        if self.files["train"] is None:
            raise UserError("data", f"{type(self).__name__} needs train, a table of images", "set it")
        found = {
            split: read_table(file, f"data.{split}", self.skips)
            for split, file in self.files.items()
            if file is not None
        }
        folders = {split: Path(table.where).parent for split, table in found.items()}
        found, _ = by_split(found, folders, None)
        for table in found.values():
            self.paths(table)
        return found

    def paths(self, table: Table) -> tuple[Path, list[Path]]:
        """(the folder of a table's images, the file of each row)."""
        root = Path(table.where).parent if self.image_root is None else Path(self.image_root).expanduser()
        column = file_column(table, self.file_column, FILE_COLUMNS)
        return root, listed_files(table, column, root, "image", "data.image_root")

    def images(self, table: Table, targets: np.ndarray) -> ListedImages:
        """A table's images with their targets."""
        root, paths = self.paths(table)
        return ListedImages(root, paths, targets, table.bad, groups_of(table, self.group_column))

    def load_for_prediction(self) -> FileImages | None:
        return None if self.predict is None else images_at(self.predict, "predict")


class ImageTable(ListedData):
    """Images that tables list, with a class each, or with one or several numbers to predict.

    Numbers are predicted with squared error, as they are: write them in units in which they are about 1, such as decades
    instead of years, since a new head starts near 0.

    Args:
        train: Table of the training images (.csv, .tsv, .json, .jsonl, .parquet); alone, its column split (train, validation,
            test) divides it, if it has one.
        val: Table of the validation images; default a share of the training images.
        test: Table of the test images.
        predict: An image, or a folder of images, to predict on; predicting needs no training data.
        file_column: Column with the files; default the first of file_name, filename, file, image, image_path, path, img.
        label_column: Column with the classes, or with the values of a regression; default label.
        label_columns: Columns with the values of a regression of several numbers.
        labels: All classes in order; default those of the training table, sorted.
        task: Whether a label is a class or a number.
        image_root: Folder from which files are named; default that of each table.
        group_column: Column, such as patient, whose values are never in two splits that are cut from one table.
        **kwargs: Size and augmentation, subset, split, batches; see Digits.
    """

    metrics_by_task: ClassVar = {"regression": ("mse", "mae", "r2", "pearson", "spearman")}

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        file_column: str | None = None,
        label_column: str | None = None,
        label_columns: list[str] | None = None,
        labels: list[str] | None = None,
        task: Literal["classification", "regression"] = "classification",
        image_root: str | None = None,
        group_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, val, test, predict, file_column, image_root, group_column, **kwargs)
        check_arguments(ImageTable.__init__, locals())
        self.label_columns, self.labels, self.task_name = label_columns or [label_column or "label"], labels, task
        regression = task == "regression"
        self.metrics = self.metrics_by_task.get(task, ())
        if labels is not None and regression:
            raise UserError(
                "data.labels", "names the classes of a classification, but data.task is regression", "leave it null"
            )
        if labels is not None and len(set(map(str, labels))) != len(labels):
            raise UserError("data.labels", f"names a class twice: {', '.join(map(str, labels))}", "name each once")
        if label_columns is not None:
            self.check_columns(label_columns, label_column)

    def check_columns(self, several: list[str], one: str | None) -> None:
        """Raises UserError if several columns of labels do not fit the other arguments."""
        if one is not None:
            raise UserError("data.label_column", "has no effect with data.label_columns", "set only one of them")
        if self.task_name != "regression":
            fix = "set data.task regression, or use MultiLabelImages for columns of 0 and 1"
            raise UserError("data.label_columns", "names values of a regression, but data.task is classification", fix)
        if not several or len(set(several)) < len(several):
            raise UserError("data.label_columns", f"must be different columns, at least one, got {several!r:.80}")

    def load(self) -> Splits:
        tables = self.tables()
        names = list[str]()
        if self.task_name == "regression":
            names = self.label_columns if len(self.label_columns) > 1 else []
            found = {split: self.values(table) for split, table in tables.items()}
        else:
            (column,), train = self.label_columns, tables["train"]
            names = class_names(train, column, self.labels)
            numbered = self.labels is not None or column in train.names
            found = {split: class_numbers(table, column, names, numbered) for split, table in tables.items()}
        images = {split: self.images(table, found[split]) for split, table in tables.items()}
        notes = list(dict.fromkeys(note for table in tables.values() for note in table.notes))
        return Splits(images["train"], images.get("val"), images.get("test"), names, notes)

    def values(self, table: Table) -> np.ndarray:
        """Float32 `[rows]` of one column of numbers, or `[rows, K]` of several."""
        found = [table.numbers(column, "data.label_column") for column in self.label_columns]
        return found[0] if len(found) == 1 else np.stack(found, axis=1)

    def describe(self) -> str:
        """Adds mean and standard deviation of the numbers to predict, in the training split."""
        line, train = super().describe(), self.splits.get("train")
        if self.task_name != "regression" or train is None or train.targets is None:
            return line
        values = train.targets.reshape(len(train.targets), -1).astype(np.float64)
        said = [
            f"{name} {mean:.4g} ± {spread:.4g}"
            for name, mean, spread in zip(self.label_columns, values.mean(0), values.std(0), strict=True)
        ]
        return f"{line}; {plural(len(said), 'number')} (mean ± standard deviation: {', '.join(said)})"
