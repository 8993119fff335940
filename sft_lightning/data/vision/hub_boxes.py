"""Images with boxes in tables of the `datasets` library: from the hub, or from parquet files."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.boxed import BoxedRows
from sft_lightning.data.vision.boxes import FORMATS, Box, Boxes, as_corners, check_format
from sft_lightning.data.vision.detection import DetectionData, Pictured
from sft_lightning.data.vision.encoded import DAMAGE
from sft_lightning.data.vision.hub_images import TableImages, encoded
from sft_lightning.data.vision.paths import folders_of, named_files
from sft_lightning.data.vision.tables import load_tables, local_files, named_splits, pick

BOX_NAMES, CLASS_NAMES, IGNORED = ("bbox", "bboxes", "boxes"), ("category", "categories", "label", "labels"), "iscrowd"


class BoxedTable(BoxedRows, TableImages):
    """A column of images with boxes."""

    def __init__(
        self, table: Any, column: str, split: str, files: dict[int, str], truth: Boxes, labels: Sequence[str]
    ) -> None:
        TableImages.__init__(self, table, column, split, files, np.zeros(len(table)))
        self.targets, self.truth, self.labels, self.refused = None, truth, list(labels), {}


class HubDetection(DetectionData):
    """Images with boxes of a data set on the hub, or of parquet files as the hub has them.

    A column of objects has, for each image, lists `bbox` and `category`, and may have `iscrowd`. The classes are those of the
    column's features; without names they are the numbers or names that occur.

    Args:
        path: The hub's name of the data set, a parquet file, a pattern of parquet files, a folder of them, or a folder that
            `save_to_disk` of `datasets` wrote.
        data_files: Parquet file or pattern for each split, as `{train: …, test: …}`, in place of path.
        config_name: The hub data set's configuration, if it has several.
        image_column: Name of the column of images.
        objects_column: Name of the column of objects.
        box_format: What a box's four numbers are: xywh (left, top, width, height) or xyxy (left, top, right, bottom).
        train_split: Name of the split to train on.
        val_split: Name of the validation split; null for one named like it (`val`, `dev`), if there is one.
        test_split: Name of the test split; null for one named like it (`test`, `Testing`), if there is one.
        **kwargs: Classes, size and augmentation, subset, split, batches; see DetectionData.
    """

    def __init__(
        self,
        path: str | None = None,
        data_files: dict[str, str] | None = None,
        config_name: str | None = None,
        image_column: str = "image",
        objects_column: str = "objects",
        box_format: Literal["xywh", "xyxy"] = "xywh",
        train_split: str = "train",
        val_split: str | None = None,
        test_split: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (path is None) == (data_files is None):
            raise UserError("data", "HubDetection needs one of path and data_files", "set one")
        if box_format not in FORMATS:
            raise UserError("data.box_format", f"must be {' or '.join(FORMATS)}, got '{box_format}'")
        self.path, self.data_files, self.config_name = path, data_files, config_name
        self.image_column, self.objects_column, self.box_format = image_column, objects_column, box_format
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split

    def load(self) -> Splits:
        tables = load_tables(self.path, self.data_files, self.config_name)
        folders = folders_of(self.path, local_files(self.path, self.data_files))
        own = named_splits(tables, self.train_split, self.val_split, self.test_split)
        chosen = {kind: tables[name] for kind, name in own.items()}
        names = self.names_of(chosen)
        columns = {
            kind: encoded(table, pick(self.image_column, table.column_names, "column"))
            for kind, table in chosen.items()
        }
        files = {kind: named_files(column, self.image_column, folders, kind) for kind, column in columns.items()}
        notes = list[str]()
        found = {
            kind: self.pictured(kind, table, columns[kind], files[kind], names, notes) for kind, table in chosen.items()
        }

        def make(split: str, truth: Boxes, labels: list[str]) -> BoxedRows:
            return BoxedTable(columns[split], self.image_column, split, files[split], truth, labels)

        return self.boxed(found, [names[n] for n in sorted(names)], notes, make)

    def names_of(self, tables: dict[str, Any]) -> dict[Any, str]:
        """Names of the classes by number, or by name if the column has names."""
        table = tables["train"]
        feature = table.features[pick(self.objects_column, table.column_names, "column")]
        feature = getattr(feature, "feature", feature)
        feature = feature[0] if isinstance(feature, list) else feature
        name = next((n for n in CLASS_NAMES if isinstance(feature, dict) and n in feature), None)
        if name is None or not any(n in feature for n in BOX_NAMES):
            raise UserError(
                "data.objects_column", f"'{self.objects_column}' must have bbox and category, got {feature!r:.80}"
            )
        of_class = getattr(feature[name], "feature", feature[name])
        if (named := getattr(of_class, "names", None)) is not None:
            return dict(enumerate(named))
        seen = {n for one in tables.values() for row in one[self.objects_column] for n in parts(row)[1]}
        if wrong := [n for n in seen if not isinstance(n, int | str)]:
            raise UserError("data", f"a box of {self.objects_column} has the category {wrong[0]!r:.40}", "correct it")
        if len({type(n) for n in seen}) > 1:
            raise UserError("data", f"categories of {self.objects_column} are numbers and names", "use one of both")
        return {category: str(category) for category in sorted(seen)}

    def pictured(
        self, split: str, table: Any, column: Any, files: dict[int, str], names: dict[Any, str], notes: list[str]
    ) -> list[Pictured]:
        """The images of a split with their boxes. What is to be said of them is added to `notes`."""
        found = list[Pictured]()
        raw, sizes = list[Sequence[float]](), list[tuple[int, int]]()
        for row, objects in enumerate(table[self.objects_column]):
            image = Pictured(Path(f"row {row} of {split}"), None, in_table=True)
            try:
                cell = column[row][self.image_column]
                held = files[row] if row in files else BytesIO(cell["bytes"] if isinstance(cell, dict) else cell)
                with Image.open(held) as opened:
                    width, height = ImageOps.exif_transpose(opened).size
                    image.size = height, width
            except DAMAGE:
                image.refused = "it is damaged, or not an image"
                found.append(image)
                continue
            boxes, classes, ignored = parts(objects)
            if len(boxes) != len(classes):
                raise UserError(
                    "data", f"{image.path} has {len(boxes)} boxes and {len(classes)} categories", "correct it"
                )
            if len(ignored) != len(boxes):
                raise UserError(
                    "data", f"{image.path} has {len(boxes)} boxes and {len(ignored)} values of {IGNORED}", "correct it"
                )
            for box, number, crowd in zip(boxes, classes, ignored, strict=True):
                if number not in names:
                    raise UserError("data", f"{image.path} has the category {number}, which has no name", "correct it")
                if not isinstance(box, list) or len(box) != 4 or any(v is None for v in box):
                    raise UserError("data", f"{image.path} has a box {box!r:.60}, not four numbers", "correct it")
                image.boxes.append(Box(*as_corners(box, self.box_format), names[number], bool(crowd)))
                raw.append(box)
                sizes.append(image.size)
            found.append(image)
        numbers = np.array(raw, dtype=np.float64).reshape(-1, 4)
        fix = "set data.init_args.box_format {}"
        notes += check_format(numbers, np.array(sizes).reshape(-1, 2), self.box_format, fix)
        return found


def parts(objects: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Boxes, classes, and whether they are ignored, of an image's objects: a dict of lists, a list of dicts, or None."""
    if isinstance(objects, list):
        objects = {name: [one[name] for one in objects] for name in (objects[0] if objects else {})}
    objects = objects or {}
    boxes, classes = (
        next((objects[n] or [] for n in names if n in objects), list[Any]()) for names in (BOX_NAMES, CLASS_NAMES)
    )
    return boxes, list(classes), list(objects.get(IGNORED) or [False] * len(boxes))
