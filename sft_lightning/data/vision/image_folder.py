"""Image files in one folder per class."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sft_lightning.data.base import Splits
from sft_lightning.data.subset import cut, strata
from sft_lightning.data.vision.base import EncodedImages, ImageData
from sft_lightning.errors import UserError, nearest

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
VALIDATION = ("val", "valid", "validation")


class FileImages(EncodedImages):
    """Images in files below a folder."""

    def __init__(self, root: Path, paths: list[Path], targets: np.ndarray | None) -> None:
        super().__init__(targets)
        self.root, self.paths = root, paths

    def __len__(self) -> int:
        return len(self.paths)

    def open(self, row: int) -> BinaryIO:
        return self.paths[row].open("rb")

    def key(self, row: int) -> str:
        return self.paths[row].relative_to(self.root).as_posix()

    def name(self, row: int) -> str:
        return str(self.paths[row])


class ImageFolder(ImageData):
    """Images in `root/train/CLASS/…` with `val` and `test` beside `train`, or in `root/CLASS/…`.

    Without a train folder, a part of each class is always set aside to test on, the same whatever the seeds.

    Args:
        root: Folder with train, val and test folders, or with one folder per class.
        test_fraction: Share of the images to train on, stratified, that is the test split where root has no test folder;
            default 0.2 without a train folder, and with one no test split.
        predict_root: Folder of images without labels, for predict.
        **kwargs: Size and augmentation, subset, split, batches; see Digits.
    """

    def __init__(
        self, root: str, test_fraction: float | None = None, predict_root: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.test_fraction, self.predict_root = root, test_fraction, predict_root
        if test_fraction is not None and not 0 < test_fraction < 1:
            raise UserError(f"data: test_fraction must be in (0, 1), got {test_fraction}")

    def load(self) -> Splits:
        root = folder(self.root, "root")
        if not (root / "train").is_dir():
            labels = classes_in(root)
            train, test = parted(labelled(root, labels), self.test_fraction or 0.2)
            return Splits(train, test=test, labels=labels)
        labels = classes_in(root / "train")
        found = next((root / name for name in VALIDATION if (root / name).is_dir()), None)
        train, val = labelled(root / "train", labels), labelled(found, labels) if found is not None else None
        if (root / "test").is_dir():
            return Splits(train, val, labelled(root / "test", labels), labels)
        if self.test_fraction is None:
            return Splits(train, val, labels=labels)
        train, test = parted(train, self.test_fraction)
        return Splits(train, val, test, labels)

    def load_for_prediction(self) -> FileImages | None:
        if self.predict_root is None:
            return None
        root = folder(self.predict_root, "predict_root")
        if not (paths := images_below(root)):
            raise UserError(f"data: predict_root {root} has no images ({', '.join(SUFFIXES)})")
        return FileImages(root, paths, None)


def parted(every: FileImages, fraction: float) -> tuple[FileImages, FileImages]:
    """(the rest, a share of the images of each class): the same each time."""
    targets, rows = every.targets, np.arange(len(every))
    assert targets is not None
    parts = cut(rows, strata(targets, rows), fraction, "data: ImageFolder")
    rest, part = (FileImages(every.root, [every.paths[i] for i in rows], targets[rows]) for rows in parts)
    return rest, part


def folder(path: str, argument: str) -> Path:
    """An existing folder."""
    found = Path(path).expanduser()
    if not found.is_dir():
        raise UserError(f"data: {argument} {found.absolute()} is not a folder: set data.init_args.{argument}")
    return found


def classes_in(root: Path) -> list[str]:
    """Names of the folders below, sorted: the classes."""
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise UserError(f"data: {root} has no class folders: it needs one folder per class, with that class's images")
    return names


def labelled(root: Path, labels: list[str]) -> FileImages:
    """All images of the class folders below `root`, in order."""
    here = classes_in(root)
    for name in here:
        if name not in labels:
            raise UserError(f"data: {root} has a class '{name}' that is not in train{nearest(name, labels)}")
    found = {name: images_below(root / name) for name in here}
    for name, paths in found.items():
        if not paths:
            raise UserError(f"data: class folder {root / name} has no images ({', '.join(SUFFIXES)})")
    targets = np.repeat([labels.index(n) for n in here], [len(found[n]) for n in here]).astype(np.int64)
    return FileImages(root, [p for paths in found.values() for p in paths], targets)


def images_below(root: Path) -> list[Path]:
    """Image files at any depth, sorted by name."""
    return sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
