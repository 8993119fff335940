"""Pascal VOC's detection layout: JPEGImages, Annotations in XML, and lists of names in ImageSets/Main."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.boxes import Box
from sft_lightning.data.vision.detection import DetectionData, Pictured
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.data.vision.mask_folder import named_below
from sft_lightning.data.vision.voc import names_in
from sft_lightning.data.vision.walk import LeftOut

IMAGES, BOXES, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"
PLACES = ("", "VOCdevkit/VOC2012", "VOC2012", "VOCdevkit/VOC2007", "VOC2007")
"""Where the folders may be below root"""


class VOCDetection(DetectionData):
    """Images with boxes in Pascal VOC's XML. Classes are those of all lists, sorted by name.

    Corners count from 1 and belong to the box, as in VOC: a box `xmin 1, xmax 10` is from 0 to 10. With `first_pixel: 0` they
    are taken as they are. Objects that are `difficult` are not trained on, and detections on them are neither right nor wrong.

    Args:
        root: Folder with JPEGImages, Annotations and ImageSets, or with VOCdevkit/VOC2012 or VOC2012.
        train_set: List of training images in ImageSets/Main, without .txt.
        val_set: List of validation images; null to set val_fraction of the training images aside.
        test_set: List of test images; null for none; default test if there is such a list.
        first_pixel: Number of the first pixel: 1 in VOC, 0 in data of some programs; default 0 if more boxes begin at 0 than
            at 1, as boxes at an image's edge do, else 1.
        **kwargs: Classes, size and augmentation, subset, split, batches; see DetectionData.
    """

    def __init__(
        self,
        root: str,
        train_set: str = "train",
        val_set: str | None = "val",
        test_set: str | None = "test",
        first_pixel: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.sets = root, {"train": train_set, "val": val_set, "test": test_set}
        self.first_pixel = first_pixel
        if first_pixel not in (None, 0, 1):
            raise UserError("data.first_pixel", f"must be 0 or 1, got {first_pixel}")

    def load(self) -> Splits:
        top = folder(self.root, "root")
        root = voc_boxes_in(top)
        if root is None:
            raise UserError(
                "data.root", f"{top} does not hold {IMAGES}, {BOXES} and {LISTS}", "set it to the folder with these"
            )
        left_out, found, notes = LeftOut(), dict[str, list[Pictured]](), list[str]()
        images = named_below(root / IMAGES, left_out)
        for split, name in self.sets.items():
            if name is None or (name == split == "test" and not (root / LISTS / "test.txt").is_file()):
                continue
            found[split] = [self.pictured(root, n, images) for n in names_in(root / LISTS, name, f"{split}_set")]
        every = [image for images_ in found.values() for image in images_]
        first = self.first_pixel
        if first is None:
            first, why = counts_from([box for image in every for box in image.boxes])
            notes.append(f"corners count from {first}{why}: --data.first_pixel {1 - first} if they do not")
        for image in every:
            image.boxes = [box._replace(left=box.left - first, top=box.top - first) for box in image.boxes]
        labels = sorted({box.label for image in every for box in image.boxes})
        if not labels:
            raise UserError("data", f"no image of {root} has a box", "choose other lists")
        return self.of_files(root, found, labels, [*left_out.lines(), *notes])

    def pictured(self, root: Path, name: str, images: dict[str, Path]) -> Pictured:
        """An image that a list names, with the boxes of its XML."""
        path = images.get(name)
        if path is None:
            return Pictured(root / IMAGES / f"{name}.jpg", None, refused="there is no such file")
        return read_xml(path, root / BOXES / f"{name}.xml")


def counts_from(boxes: Sequence[Box]) -> tuple[int, str]:
    """(the number of the first pixel, and how it was told if boxes speak for both). Boxes at the left or upper edge begin at
    it, so that a few wrong files do not shift all boxes. Raises UserError if as many boxes begin at 0 as at 1.
    """
    zeros, ones = (sum(n in (box.left, box.top) for box in boxes) for n in (0, 1))
    if zeros and zeros == ones:
        raise UserError(
            "data.first_pixel",
            f"{plural(zeros, 'box', 'es')} begin at 0 and as many at 1, so that corners may count from either",
            "set it to 0 or 1",
        )
    said = f", as {plural(max(zeros, ones), 'box', 'es')} begin there, and {min(zeros, ones)} at {int(zeros > ones)}"
    return int(zeros <= ones), said if zeros and ones else ""


def voc_boxes_in(top: Path) -> Path | None:
    """The folder with images, boxes and lists in or below `top`; None if there is none."""
    parts = (IMAGES, BOXES, LISTS)
    return next((top / n for n in PLACES if all((top / n / part).is_dir() for part in parts)), None)


def read_xml(image: Path, path: Path) -> Pictured:
    """An image with the boxes of its XML file. Files that declare entities are refused, as they may expand without end."""
    found = Pictured(image, None)
    try:
        text = path.read_bytes()
        if b"<!ENTITY" in text:
            found.refused = f"its {path.name} declares entities"
            return found
        tree = ElementTree.fromstring(text)
        width, height = (int(float(tree.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
        if width > 0 and height > 0:
            found.size = height, width
        for entry in tree.iter("object"):
            box = entry.find("bndbox")
            corners = (
                [float(box.findtext(n) or "") for n in ("xmin", "ymin", "xmax", "ymax")] if box is not None else []
            )
            label = (entry.findtext("name") or "").strip()
            if len(corners) < 4 or not label:
                raise ValueError("an object lacks a name or a bndbox")
            left, top, right, bottom = corners
            difficult = (entry.findtext("difficult") or "0").strip().lower() in ("1", "true")
            found.boxes.append(Box(left, top, right, bottom, label, difficult))
    except FileNotFoundError:
        found.refused = f"it has no {path.name}"
    except (OSError, ValueError, LookupError, OverflowError, ElementTree.ParseError) as error:
        found.refused = f"its {path.name} cannot be read: {error}"
    return found
