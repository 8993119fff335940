"""Images with masks in tables of the `datasets` library: from the hub, or from parquet files."""

from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.hub_images import TableImages, encoded
from sft_lightning.data.vision.masked_rows import MaskedRows
from sft_lightning.data.vision.masks import MaskRule
from sft_lightning.data.vision.paths import folders_of, named_files
from sft_lightning.data.vision.segmentation import SegmentationData
from sft_lightning.data.vision.tables import load_tables, local_files, named_splits, pick

MASK_COLUMNS = ("mask", "label", "annotation", "segmentation_mask", "semantic_mask", "labels")
"""Names of the column of masks, the likeliest first"""


class Cell:
    """An encoded mask in a table; decoded when it is opened."""

    def __init__(self, table: Any, column: str, row: int, split: str, file: str | None) -> None:
        self.table, self.column, self.row, self.split, self.file = table, column, row, split, file

    def __str__(self) -> str:
        return self.file or f"in row {self.row} of {self.split}"

    def open(self, mode: str = "rb", /) -> BinaryIO:
        if self.file is not None:
            return Path(self.file).open("rb")
        held = self.table[self.row][self.column]
        return BytesIO(held["bytes"] if isinstance(held, dict) else held)

    @property
    def empty(self) -> bool:
        """Whether there is no mask."""
        if self.file is not None:
            return False
        held = self.table[self.row][self.column]
        return not (held.get("bytes") if isinstance(held, dict) else held)


class MaskedTable(MaskedRows, TableImages):
    """A column of images with a column of masks."""

    def __init__(
        self, table: Any, column: str, split: str, files: dict[int, str], cells: list[Cell | None], rule: MaskRule
    ) -> None:
        TableImages.__init__(self, table, column, split, files, None)
        self.cells, self.rule, self.refused = cells, rule, {}

    def encoded_mask(self, row: int) -> Cell | None:
        return self.cells[row]


class HubSegmentation(SegmentationData):
    """Images and masks of a data set on the hub, or of parquet files as the hub has them: two columns of images.

    A row may name files instead of holding them; they must lie in the parquet files' folder or below.

    Args:
        path: The hub's name of the data set, a parquet file, a pattern of parquet files, a folder of them, or a folder that
            `save_to_disk` of `datasets` wrote.
        data_files: Parquet file or pattern for each split, as `{train: …, test: …}`, in place of path.
        config_name: The hub data set's configuration, if it has several.
        image_column: Name of the column of images.
        mask_column: Name of the column of masks; default the first of mask, label, annotation, segmentation_mask,
            semantic_mask, labels.
        train_split: Name of the split to train on.
        val_split: Name of the validation split; null for one named like it (`val`, `dev`), if there is one.
        test_split: Name of the test split; null for one named like it (`test`, `Testing`), if there is one.
        **kwargs: Classes, size and augmentation, subset, split, batches; see SegmentationData.
    """

    def __init__(
        self,
        path: str | None = None,
        data_files: dict[str, str] | None = None,
        config_name: str | None = None,
        image_column: str = "image",
        mask_column: str | None = None,
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (path is None) == (data_files is None):
            raise UserError("data", "HubSegmentation needs one of path and data_files", "set one")
        self.path, self.data_files, self.config_name = path, data_files, config_name
        self.image_column, self.mask_column = image_column, mask_column
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split

    def load(self) -> Splits:
        tables = load_tables(self.path, self.data_files, self.config_name)
        folders = folders_of(self.path, local_files(self.path, self.data_files))
        own = named_splits(tables, self.train_split, self.val_split, self.test_split)
        chosen = {kind: tables[name] for kind, name in own.items()}
        column = self.column_of(chosen["train"])
        cells = {kind: self.cells(table, column, kind, folders) for kind, table in chosen.items()}
        rule = self.rule([cell for cell in cells["train"] if cell is not None])
        found = {}
        for kind, table in chosen.items():
            images = encoded(table, pick(self.image_column, table.column_names, "column"))
            files = named_files(images, self.image_column, folders, kind)
            found[kind] = MaskedTable(images, self.image_column, kind, files, cells[kind], rule)
        return self.checked(found, rule, [f"masks are in column '{column}'"])

    def column_of(self, table: Any) -> str:
        """The column of masks: the one named, else the first of MASK_COLUMNS that there is."""
        if self.mask_column is not None:
            return pick(self.mask_column, table.column_names, "column")
        found = next((name for name in MASK_COLUMNS if name in table.column_names and name != self.image_column), None)
        if found is None:
            here = ", ".join(table.column_names)
            raise UserError(
                "data.mask_column", f"there is no column {' or '.join(MASK_COLUMNS)}, only {here}", "set it"
            )
        return found

    def cells(self, table: Any, column: str, split: str, folders: list[str]) -> list[Cell | None]:
        """The mask of each row; None in rows without."""
        try:
            masks = encoded(table, pick(column, table.column_names, "column"))
        except UserError as error:
            if error.key != "data.image_column":
                raise
            raise UserError("data.mask_column", error.problem, "set it to a column of masks") from None
        files = named_files(masks, column, folders, split)
        found = [Cell(masks, column, row, split, files.get(row)) for row in range(len(masks))]
        return [None if cell.empty else cell for cell in found]
