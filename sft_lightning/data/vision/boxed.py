"""Images with boxes: fitted into a square and moved together, so that boxes always lie on their objects."""

import json
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sft_lightning.core.structures import TaskInfo, Texts
from sft_lightning.data.bad_samples import BadSample, printable
from sft_lightning.data.sampler import Key
from sft_lightning.data.vision.augment import hashed_uniform
from sft_lightning.data.vision.box_overlay import drawn
from sft_lightning.data.vision.boxes import Boxes
from sft_lightning.data.vision.encoded import EncodedImages
from sft_lightning.data.vision.image_folder import FileImages
from sft_lightning.data.vision.images import Images
from sft_lightning.tasks.box_scores import Picture
from sft_lightning.tasks.object_detection import FIXED

MOVES = ("crop", "flip", "flip_vertical")
ORIENTATION = 0x0112  # EXIF's tag


class Boxed(Images):
    """Images with boxes of objects each.

    The whole image is resized so that its longer side is the network's, and lies at the top left of a square whose rest is
    filled: all images have one size, so that none depends on those beside it in a batch. Training moves images and boxes
    together, by numbers that depend on (seed, epoch, row) alone.
    """

    one_item_each = True
    truth: Boxes | None = None
    """The boxes of all images; None for images to predict on"""
    moves: Sequence[str] = ()
    """What training varies, of MOVES"""
    least_crop = 0.5
    """Smallest share of the image's sides that `crop` leaves"""
    least_visible = 0.3
    """Boxes of which a crop leaves a smaller share of the area are dropped, others are clipped"""
    overlays = False
    """Whether predictions are also drawn over their images"""
    image_ids: Sequence[Any] | None = None
    """The images' ids in a file of annotations in COCO's format; None without one"""
    category_ids: Mapping[str, int] | None = None
    """The classes' ids in it"""

    def size_of(self, row: int) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        assert self.truth is not None
        height, width = self.truth.sizes[row].tolist()
        return height, width

    # ---- the view ----

    def fit(self, size: tuple[int, int] | None, channels: int | None, own_view: Any = None) -> None:
        super().fit(size, channels, None)  # a view that crops would lose objects

    def fitted_size(self, row: int) -> tuple[int, int]:
        """Height and width of an image in the network's square."""
        height, width = self.size_of(row)
        return fitted_size(height, width, self.side)

    @property
    def side(self) -> int:
        """Height and width of the square, in pixels."""
        assert self.size is not None
        return self.size[0]

    def scale(self, row: int) -> tuple[float, float]:
        """Pixels of the square for one of the image, across and down."""
        (height, width), (down, across) = self.size_of(row), self.fitted_size(row)
        return across / width, down / height

    def view(self, row: int) -> Tensor:
        image = self.repeated(self.read(row), row)
        if tuple(image.shape[-2:]) != self.size_of(row):
            here, there = ("×".join(map(str, size)) for size in (image.shape[-2:], self.size_of(row)))
            raise BadSample.of(self, {row: f"it has {here} pixels, its boxes are for {there}"})
        return in_square(image, self.fitted_size(row), self.side)

    # ---- batches ----

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """`image` uint8 `[B, C, S, S]` and `size` int64 `[B, 2]`, the height and width that the image fills; with boxes
        `select` `[B, 1]`, as an item is an image, and `y` as ObjectDetection has it.
        """
        images, sizes = self.views(rows), [self.fitted_size(row) for row in rows]
        if self.truth is None:
            return {"image": images, "size": torch.tensor(sizes)}
        boxes = [self.trained_on(row) for row in rows]
        if train and self.moves:
            moved = [
                self.moved(image, size, box, row, keys[0].epoch)
                for image, size, box, row in zip(images, sizes, boxes, rows, strict=True)
            ]
            images = torch.stack([image for image, _, _ in moved])
            sizes, boxes = [size for _, size, _ in moved], [box for _, _, box in moved]
        select = torch.ones(len(rows), 1, dtype=torch.bool)
        return {"image": images, "size": torch.tensor(sizes), "select": select, "y": fixed(boxes)}

    def classes_in(self, row: int) -> set[int]:
        """Numbers of the classes of an image's boxes, without those that are ignored."""
        assert self.truth is not None
        _, labels, ignored = self.truth.of(row)
        return set(labels[~ignored].tolist())

    def trained_on(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Corners in the square and labels of an image's boxes, without those that are ignored."""
        assert self.truth is not None
        corners, labels, ignored = self.truth.of(row)
        return corners[~ignored] * np.array(self.scale(row) * 2), labels[~ignored]

    def moved(
        self, image: Tensor, size: tuple[int, int], boxes: tuple[np.ndarray, np.ndarray], row: int, epoch: int
    ) -> tuple[Tensor, tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        """Image and boxes moved together, within the part of the square that the image fills."""
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as v2

        numbers = [float(hashed_uniform(self.seed, epoch, np.array([row]), stream)[0]) for stream in range(6)]
        (height, width), (corners, labels) = size, boxes
        pair: Any = (
            tv_tensors.Image(image[:, :height, :width]),
            tv_tensors.BoundingBoxes(
                torch.from_numpy(corners), format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=(height, width)
            ),
        )
        if "flip" in self.moves and numbers[2] < 0.5:
            pair = [v2.horizontal_flip(one) for one in pair]
        if "flip_vertical" in self.moves and numbers[4] < 0.5:
            pair = [v2.vertical_flip(one) for one in pair]
        if "crop" in self.moves and numbers[3] < 0.5:
            share = self.least_crop + (1 - self.least_crop) * numbers[5]
            part = max(1, round(height * share)), max(1, round(width * share))
            top, left = (int(n * (of - p + 1)) for n, of, p in zip(numbers, (height, width), part, strict=False))
            size = fitted_size(*part, self.side)
            whole = pair[1].as_subclass(Tensor)
            pair = (v2.resized_crop(pair[0], top, left, *part, list(size), antialias=True),)
            moved = (whole - torch.tensor([left, top] * 2)) * torch.tensor([size[1] / part[1], size[0] / part[0]] * 2)
            clipped = moved.clamp(min=0).minimum(torch.tensor([size[1], size[0]] * 2))
            kept = (area(clipped) >= self.least_visible * area(moved)) & (area(clipped) > 0)
            corners, labels = clipped[kept].numpy(), labels[kept.numpy()]
        else:
            corners = pair[1].as_subclass(Tensor).numpy()
        return in_square(pair[0].as_subclass(Tensor), size, self.side), size, (corners, labels)

    def beside(self, rows: Sequence[int]) -> Texts:
        """A `Picture` of each image."""
        return Texts(
            Picture(*self.size_of(row), self.scale(row), *(() if self.truth is None else self.truth.of(row)))
            for row in rows
        )

    # ---- predictions ----

    def filed(self, row: int, prediction: dict[str, Any], folder: Path, task: TaskInfo | None) -> dict[str, Any]:
        """Names the image's file and size, and draws the boxes over it if that is wanted."""
        height, width = self.size_of(row)
        named = {"file": printable(self.name(row)), "height": height, "width": width}
        if self.overlays:
            (folder / "overlays").mkdir(parents=True, exist_ok=True)
            stem = f"{row:06d}-{Path(printable(self.name(row))).stem}".replace(" ", "_")
            labels = list(task.labels) if task is not None else []
            drawn(self.read(row), prediction, labels).save(folder / "overlays" / f"{stem}.png")
            named["overlay"] = f"overlays/{stem}.png"
        return {**named, **prediction}

    def summed(self, rows: Sequence[dict[str, Any]], folder: Path, task: TaskInfo | None) -> None:
        """Writes `coco_predictions.json`, all detections as COCO's results have them, with the ids of the file of annotations.
        Without one, image_id is the sample's row number, and category_id the class's number from 1.
        """
        number = {label: at for at, label in enumerate(task.labels if task is not None else [], 1)}
        number = {label: (self.category_ids or number).get(label, at) for label, at in number.items()}
        found = [
            {
                "image_id": row["index"] if self.image_ids is None else self.image_ids[row["index"]],
                "file_name": row["file"],
                "category_id": number[label],
                "category": label,
                "bbox": [round(v, 2) for v in (left, top, right - left, bottom - top)],
                "score": score,
            }
            for row in rows
            for (left, top, right, bottom), score, label in zip(row["boxes"], row["scores"], row["labels"], strict=True)
        ]
        (folder / "coco_predictions.json").write_text(json.dumps(found, ensure_ascii=False) + "\n", encoding="utf-8")


class BoxedRows(Boxed, EncodedImages):
    """Encoded images with boxes."""

    labels: Sequence[str]
    """Names of the classes"""
    refused: dict[int, str]
    """Rows that loading found unusable, and why"""

    def bad_rows(self) -> dict[int, str]:
        return self.refused

    def types_in(self) -> list[frozenset[str]]:
        """The classes in each image."""
        assert self.truth is not None
        return [frozenset(self.labels[n] for n in self.truth.of(row)[1].tolist()) for row in range(len(self))]

    def digest(self) -> bytes:
        """Hash of images and boxes."""
        if self._of_both is None:
            digest = sha256(EncodedImages.digest(self))
            digest.update(b"" if self.truth is None else self.truth.digest())
            digest.update(repr(list(self.labels)).encode())
            self._of_both = digest.digest()
        return self._of_both

    _of_both: bytes | None = None


class BoxedFiles(BoxedRows, FileImages):
    """Image files with boxes.

    Args:
        root: Folder that names are given below.
        paths: The images.
        truth: Their boxes; None for images to predict on.
        labels: Names of the classes.
    """

    def __init__(self, root: Path, paths: list[Path], truth: Boxes | None, labels: Sequence[str] = ()) -> None:
        FileImages.__init__(self, root, paths, None)
        self.truth, self.labels, self.refused = truth, list(labels), {}
        self._sizes: dict[int, tuple[int, int]] = {}

    def key(self, row: int) -> str:
        return os.path.relpath(self.paths[row], self.root)

    def size_of(self, row: int) -> tuple[int, int]:
        if self.truth is not None:
            return super().size_of(row)
        if row not in self._sizes:
            self._sizes[row] = size_of_file(self.paths[row])
        return self._sizes[row]

    def view(self, row: int) -> Tensor:
        if self.truth is None and row not in self._sizes:
            height, width = self.read(row).shape[-2:]  # raises BadSample
            self._sizes[row] = height, width
        return super().view(row)


def size_of_file(path: Path | BinaryIO) -> tuple[int, int]:
    """Height and width of an upright image; its pixels are decoded only if it may have to be turned."""
    with Image.open(path) as image:
        turned = image.getexif().get(ORIENTATION, 1) != 1
        width, height = (ImageOps.exif_transpose(image) if turned else image).size
        return height, width


def fitted_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width of an image whose longer side is `side`."""
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def in_square(image: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """An image at a size, at the top left of a black square."""
    if tuple(image.shape[-2:]) != size:
        from torchvision.transforms.v2 import functional as v2

        image = v2.resize(image, list(size), antialias=True)
    found: Tensor = torch.nn.functional.pad(image, (0, side - size[1], 0, side - size[0]))
    return found


def only_filled(image: Tensor, size: Tensor) -> Tensor:
    """Images `[B, C, S, S]` with 0 where nothing fills the square, given height and width `[B, 2]` that each fills."""
    down, across = (
        torch.arange(image.shape[axis], device=image.device) < size[:, at, None] for axis, at in ((-2, 0), (-1, 1))
    )
    return image * (down[:, None, :, None] & across[:, None, None, :])


def area(corners: Tensor) -> Tensor:
    """Area of boxes `[M, 4]`; 0 if they have none."""
    return (corners[:, 2:] - corners[:, :2]).clamp(min=0).prod(1)


def fixed(boxes: Sequence[tuple[np.ndarray, np.ndarray]]) -> Tensor:
    """`[B, M, 5]` int64: corners in parts of 1/FIXED pixel, and the class; −1 where an image has fewer boxes than another."""
    most = max([1, *(len(labels) for _, labels in boxes)])
    y = torch.full((len(boxes), most, 5), -1)
    for at, (corners, labels) in enumerate(boxes):
        parts = np.rint(corners * FIXED).astype(np.int64)
        parts[:, 2:] = np.maximum(parts[:, 2:], parts[:, :2] + 1)  # a box keeps an area
        y[at, : len(labels), :4], y[at, : len(labels), 4] = torch.from_numpy(parts), torch.from_numpy(labels).long()
    return y
