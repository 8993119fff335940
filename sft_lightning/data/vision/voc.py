"""Pascal VOC's segmentation layout: JPEGImages, SegmentationClass, and lists of names in ImageSets/Segmentation."""

from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.data.vision.mask_folder import named_below
from sft_lightning.data.vision.segmentation import Pairs, SegmentationData
from sft_lightning.data.vision.walk import LeftOut

LABELS = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
IMAGES, MASKS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"


class VOCSegmentation(SegmentationData):
    """Pascal VOC's images with masks of 21 classes, where 255, mostly borders of objects, has no label.

    Other data in this layout need `labels` or `mask_values`. VOC's own test images have no public masks: without a list
    `test_set`, `test_fraction` sets some training images aside.

    Args:
        root: Folder with JPEGImages, SegmentationClass and ImageSets, or with VOCdevkit/VOC2012 or VOC2012.
        train_set: List of training images in ImageSets/Segmentation, without .txt.
        val_set: List of validation images; null to set val_fraction of the training images aside.
        test_set: List of test images; null for none.
        **kwargs: Classes, size and augmentation, subset, split, batches; see SegmentationData.
    """

    def __init__(
        self,
        root: str,
        train_set: str = "train",
        val_set: str | None = "val",
        test_set: str | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("labels") is None and kwargs.get("mask_values") is None:
            kwargs["labels"] = list(LABELS)
        super().__init__(**kwargs)
        self.root, self.train_set, self.val_set, self.test_set = root, train_set, val_set, test_set

    def load(self) -> Splits:
        top = folder(self.root, "root")
        root = voc_in(top)
        if root is None:
            raise UserError(
                "data.root", f"{top} does not hold {IMAGES}, {MASKS} and {LISTS}", "set it to the folder with these"
            )
        left_out = LeftOut()
        images, masks = (named_below(root / name, left_out) for name in (IMAGES, MASKS))
        pairs: dict[str, Pairs] = {}
        for split, name in (("train", self.train_set), ("val", self.val_set), ("test", self.test_set)):
            if name is not None:
                pairs[split] = [self.pair(n, images, masks, name) for n in names_in(root / LISTS, name, f"{split}_set")]
        return self.masked(root, pairs, left_out.lines())

    def pair(self, name: str, images: dict[str, Path], masks: dict[str, Path], where: str) -> tuple[Path, Path | None]:
        """An image that a list names, and its mask if it has one. Raises UserError for an image that is not there."""
        if name not in images:
            raise UserError("data", f"{LISTS}/{where}.txt names {name}, but {IMAGES} has no such image", "add it")
        return images[name], masks.get(name)


def voc_in(top: Path) -> Path | None:
    """The folder with images, masks and lists in or below `top`; None if there is none."""
    inside = ("", "VOCdevkit/VOC2012", "VOC2012", "VOCdevkit/VOC2007", "VOC2007")
    return next((top / n for n in inside if all((top / n / part).is_dir() for part in (IMAGES, MASKS, LISTS))), None)


def names_in(lists: Path, name: str, argument: str) -> list[str]:
    """The images that a list names, in its order, each once. Raises UserError if there is no such list, or none in it."""
    path = lists / f"{name}.txt"
    if not path.is_file():
        there = sorted(p.stem for p in lists.glob("*.txt"))
        raise UserError(
            f"data.{argument}", f"{lists} has no {name}.txt, only {', '.join(there) or 'no list'}{nearest(name, there)}"
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    if not (found := list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))):
        raise UserError(f"data.{argument}", f"{path} names no image", "choose another list")
    return found
