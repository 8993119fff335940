"""Cityscapes in its own layout: leftImg8bit and gtFine, with the 19 classes that are evaluated."""

from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.data.vision.mask_folder import by_pattern, paired
from sft_lightning.data.vision.segmentation import SegmentationData
from sft_lightning.data.vision.walk import LeftOut

CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""Ids of the evaluated classes in labelIds masks; the others have no label"""


class Cityscapes(SegmentationData):
    """Street scenes in `leftImg8bit/SPLIT/CITY`, with `gtFine/SPLIT/CITY/…_gtFine_labelIds.png`: 19 classes.

    The test folder is not read, because the masks that are public for it hold no classes: `test_fraction` sets some training
    images aside.

    Args:
        root: Folder with leftImg8bit and gtFine.
        **kwargs: Size and augmentation, subset, split, batches; see SegmentationData.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        for name in ("labels", "mask_values", "unknown_values"):
            if kwargs.get(name) is not None:
                raise UserError(
                    f"data.{name}", "has no effect on Cityscapes, whose classes are known", "use MaskFolder"
                )
        super().__init__(mask_values=dict(CLASSES), unknown_values="ignore", **kwargs)
        self.root = root

    def load(self) -> Splits:
        root, left_out, notes = folder(self.root, "root"), LeftOut(), list[str]()
        images, masks = "leftImg8bit/{split}/{name}_leftImg8bit.png", "gtFine/{split}/{name}_gtFine_labelIds.png"
        try:
            found = by_pattern(root, images, masks, left_out, notes)
        except UserError as error:
            raise error.at("data.root") from None
        notes += left_out.lines()
        splits = {name: files for name, files in found.items() if name != "test"}
        return self.masked(
            root, {name: paired(root, *files, notes, self.skips) for name, files in splits.items()}, notes
        )


def cityscapes_in(top: Path) -> bool:
    """Whether a folder has Cityscapes' layout."""
    return (top / "leftImg8bit" / "train").is_dir() and (top / "gtFine" / "train").is_dir()
