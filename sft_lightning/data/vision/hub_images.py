"""Images in tables of the `datasets` library: from the hub, or from parquet files."""

from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.base import EncodedImages, ImageData
from sft_lightning.data.vision.paths import folders_of, named_files
from sft_lightning.data.vision.tables import classes_of, load_tables, local_files, named_splits, pick, targets_of

BINARY = ("binary", "large_binary")


class TableImages(EncodedImages):
    """A column of encoded images; `files` has the file of each row that names one instead."""

    def __init__(
        self,
        table: Any,
        column: str,
        split: str,
        files: dict[int, str],
        targets: np.ndarray | None,
        bad: dict[int, str] | None = None,
    ) -> None:
        super().__init__(targets)
        self.table, self.column, self.split, self.files, self.unusable = table, column, split, files, bad or {}

    def __len__(self) -> int:
        return len(self.table)

    def open(self, row: int) -> BinaryIO:
        if row in self.files:
            return Path(self.files[row]).open("rb")
        cell = self.table[row][self.column]
        return BytesIO(cell["bytes"] if isinstance(cell, dict) else cell)

    def bad_rows(self) -> dict[int, str]:
        return self.unusable

    def key(self, row: int) -> str:
        return str(row)

    def name(self, row: int) -> str:
        return f"row {row} of {self.split}"


class HubImages(ImageData):
    """Images and labels of a data set on the hub, or of parquet files as the hub has them.

    A row may name an image file instead of holding it; the file must lie in the parquet files' folder or below.

    Args:
        path: The hub's name of the data set, a parquet file, a pattern of parquet files, a folder of them, or a folder that
            `save_to_disk` of `datasets` wrote.
        data_files: Parquet file or pattern for each split, as `{train: …, test: …}`, in place of path.
        config_name: The hub data set's configuration, if it has several.
        image_column: Name of the column of images.
        label_column: Name of the column of classes.
        train_split: Name of the split to train on; default the one named train in any spelling (`train`, `Training`).
        val_split: Name of the validation split; null for one named like it (`val`, `dev`), if there is one.
        test_split: Name of the test split; null for one named like it (`test`, `Testing`), if there is one.
        **kwargs: Size and augmentation, subset, split, batches; see Digits.
    """

    def __init__(
        self,
        path: str | None = None,
        data_files: dict[str, str] | None = None,
        config_name: str | None = None,
        image_column: str = "image",
        label_column: str = "label",
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (path is None) == (data_files is None):
            raise UserError("data", "HubImages needs one of path and data_files", "set one")
        self.path, self.data_files, self.config_name = path, data_files, config_name
        self.image_column, self.label_column = image_column, label_column
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split

    def load(self) -> Splits:
        tables = load_tables(self.path, self.data_files, self.config_name)
        folders = folders_of(self.path, local_files(self.path, self.data_files))
        own = named_splits(tables, self.train_split, self.val_split, self.test_split)
        train, chosen = own["train"], {name: tables[name] for name in own.values()}
        for table in chosen.values():
            pick(self.image_column, table.column_names, "column")
            pick(self.label_column, table.column_names, "column")
        labels, numbers = classes_of(chosen, self.label_column, train)
        images = {name: encoded(table, self.image_column) for name, table in chosen.items()}
        splits = {
            name: TableImages(
                images[name],
                self.image_column,
                name,
                named_files(images[name], self.image_column, folders, name),
                *targets_of(table, self.label_column, numbers, name, self.skips),
            )
            for name, table in chosen.items()
        }
        return Splits(splits[train], splits.get(own.get("val", "")), splits.get(own.get("test", "")), labels)


def encoded(table: Any, column: str) -> Any:
    """The column alone, its images left as bytes."""
    from datasets import Image

    feature = table.features[column]
    if isinstance(feature, Image):
        return table.select_columns([column]).cast_column(column, Image(decode=False))
    if not (isinstance(feature, dict) and "bytes" in feature) and getattr(feature, "dtype", "") not in BINARY:
        problem = f"column '{column}' holds {getattr(feature, 'dtype', feature)}, not images"
        raise UserError("data.image_column", problem, "set it to a column of images")
    return table.select_columns([column])
