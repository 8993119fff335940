"""Image files in one folder per class."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.data.bad_samples import printable
from sft_lightning.data.base import Splits
from sft_lightning.data.subset import cut, strata
from sft_lightning.data.vision.base import EncodedImages, ImageData
from sft_lightning.data.vision.layout import Layout, class_images, classes_in, layout_of
from sft_lightning.data.vision.walk import SUFFIXES, LeftOut, images_below


class FileImages(EncodedImages):
    """Images in files below a folder. `notes` say which of the folder's files were left out."""

    def __init__(
        self, root: Path, paths: list[Path], targets: np.ndarray | None, notes: list[str] | None = None
    ) -> None:
        super().__init__(targets)
        self.root, self.paths, self.notes = root, paths, notes or []

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, row: int) -> BinaryIO:
        return self.paths[row].open("rb")

    def key(self, row: int) -> str:
        return self.paths[row].relative_to(self.root).as_posix()

    def name(self, row: int) -> str:
        return printable(str(self.paths[row]))


class ImageFolder(ImageData):
    """Images in `root/train/CLASS/…` with `val` and `test` beside `train`, or in `root/CLASS/…`.

    Split folders may be named in the usual ways (`Train`, `testing`, `val_images`). Links are followed; hidden folders
    and files (`.ipynb_checkpoints`, `__MACOSX`) are left out and counted. Without a train folder, a part of each class
    is always set aside to test on, the same whatever the seeds.

    Args:
        root: Folder with train, val and test folders, or with one folder per class.
        test_fraction: Share of the training images, stratified, that becomes the test split if root has no test folder;
            default 0.2 without a train folder, else none.
        predict_root: Folder of images without labels, for predict.
        **kwargs: Size and augmentation, subset, split, batches; see Digits.
    """

    def __init__(
        self, root: str, test_fraction: float | None = None, predict_root: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.test_fraction, self.predict_root = root, test_fraction, predict_root
        if test_fraction is not None and not 0 < test_fraction < 1:
            raise UserError("data.test_fraction", f"must be in (0, 1), got {test_fraction}")

    def load(self) -> Splits:
        layout = layout_of(folder(self.root, "root"))
        found, labels = labelled(layout)
        train, test = found["train"], found.get("test")
        if test is None and (self.test_fraction is not None or not layout.has_splits):
            train, test = parted(train, self.test_fraction or 0.2)
        return Splits(train, found.get("val"), test, [printable(name) for name in labels])

    def load_for_prediction(self) -> FileImages | None:
        if self.predict_root is None:
            return None
        root, left_out = folder(self.predict_root, "predict_root"), LeftOut()
        if not (paths := images_below(root, left_out)):
            raise UserError("data.predict_root", f"{root} has no images ({', '.join(SUFFIXES)})", "use another folder")
        return FileImages(root, paths, None, left_out.lines())


def labelled(layout: Layout) -> tuple[dict[str, FileImages], list[str]]:
    """The images of each split in order, with notes of what was left out; and the classes, sorted."""
    classes = classes_in(layout.splits["train"])
    found = {}
    for split, root in layout.splits.items():
        images = class_images(root, classes, layout.left_out)
        targets = np.repeat([classes.index(n) for n in images], [len(paths) for paths in images.values()])
        found[split] = FileImages(root, [p for paths in images.values() for p in paths], targets.astype(np.int64))
    for samples in found.values():
        samples.notes = [*layout.notes, *layout.left_out.lines()]
    return found, classes


def parted(every: FileImages, fraction: float) -> tuple[FileImages, FileImages]:
    """(the rest, a share of the images of each class): the same each time."""
    targets, rows = every.targets, np.arange(len(every))
    assert targets is not None
    parts = cut(rows, strata(targets, rows), fraction, "data")
    rest, part = (FileImages(every.root, [every.paths[i] for i in rows], targets[rows], every.notes) for rows in parts)
    return rest, part


def folder(path: str, argument: str) -> Path:
    """An existing folder."""
    found = Path(path).expanduser()
    if not found.is_dir():
        raise UserError(f"data.{argument}", f"{found.absolute()} is not a folder", "set it to an existing folder")
    return found
