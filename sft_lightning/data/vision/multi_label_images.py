"""Images with sets of labels, from tables or from COCO's annotations."""

from typing import Any

from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.base import Splits
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.set_columns import SetColumns, no_shots, sets_said
from sft_lightning.data.vision.base import ImageData
from sft_lightning.data.vision.image_table import ListedData


class LabelSets(ImageData, base=True):
    """Images with a set of labels each, which may be empty."""

    task_name = "multi_label"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        no_shots(self.shots_per_class)

    def describe(self) -> str:
        """Adds the labels, how many a training image has, and how many images have none."""
        line, train = super().describe(), self.splits.get("train")
        if train is None or train.targets is None or self.task_info is None:
            return line
        return f"{line}; {sets_said(self.task_info.labels, train.targets, 'image')}"


class MultiLabelImages(ListedData, LabelSets):
    """Images that tables list, each with a set of labels, which may be empty.

    The labels are a list in one column, names in one column with a separator between, or columns of 0 and 1, as
    MultiLabelTable reads them. Subsets and validation splits are drawn at random, not by label.

    Args:
        train: Table of the training images (.csv, .tsv, .json, .jsonl, .parquet); alone, its column split (train, validation,
            test) divides it, if it has one.
        val: Table of the validation images; default a share of the training images.
        test: Table of the test images.
        predict: An image, or a folder of images, to predict on; predicting needs no training data.
        file_column: Column with the files; default the first of file_name, filename, file, image, image_path, path, img.
        label_column: Column with the sets of labels, as lists or with a separator between; default labels.
        label_separator: What stands between the labels of a cell; default the one of ; | , and tab that the training
            file uses.
        label_columns: Columns of 0 and 1, one for each label; a name that ends in * stands for all columns that begin so.
        labels: All labels in order; default the names the file gives, else those of the training images, sorted.
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
        label_column: str | None = None,
        label_separator: str | None = None,
        label_columns: list[str] | None = None,
        labels: list[str] | None = None,
        image_root: str | None = None,
        group_column: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(train, val, test, predict, file_column, image_root, group_column, **kwargs)
        check_arguments(MultiLabelImages.__init__, locals())
        one = "ImageTable for one label an image"
        self.sets = SetColumns(label_column, label_separator, label_columns, labels, one)

    def load(self) -> Splits:
        tables, notes = self.tables(), Notes()
        names, found = self.sets.read(tables, notes)
        images = {split: self.images(table, found[split]) for split, table in tables.items()}
        said = list(dict.fromkeys(note for table in tables.values() for note in table.notes))
        return Splits(images["train"], images.get("val"), images.get("test"), names, [*said, *notes.lines()])
