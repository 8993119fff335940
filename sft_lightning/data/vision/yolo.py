"""YOLO's folders: images beside labels, a text file for each image, and the classes in data.yaml."""

from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.base import Splits
from sft_lightning.data.split_names import by_kind, split_of
from sft_lightning.data.vision.boxed import size_of_file
from sft_lightning.data.vision.boxes import Box
from sft_lightning.data.vision.detection import DetectionData, Pictured
from sft_lightning.data.vision.encoded import DAMAGE
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.data.vision.walk import LeftOut, folders_in, images_below

CONFIGS = ("data.yaml", "data.yml", "dataset.yaml")
LISTED = "classes.txt"
"""File of the classes' names that programs which draw boxes leave beside the labels"""
OUTSIDE = 1e-3
"""Share of a side by which numbers may leave 0 to 1, as they are rounded"""


class YOLOFolder(DetectionData):
    """Images with boxes in YOLO's folders: `images/train` beside `labels/train`, or `train/images` beside `train/labels`.

    A line of a label file is `class x y width height`, where x and y are the box's centre and all four are shares of the
    image's width or height. An image without a label file has no objects. `data.yaml` names the classes (`names`), or
    `classes.txt`, a class a line, beside the labels or above; without both they are numbers. Paths of data.yaml are
    not read. Polygons (more than five numbers) become the box around them.

    Args:
        root: The folder that holds all.
        **kwargs: Classes, size and augmentation, subset, split, batches; see DetectionData.
    """

    def __init__(self, root: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root

    def load(self) -> Splits:
        root, left_out, notes = folder(self.root, "root"), LeftOut(), list[str]()
        pairs = yolo_folders(root)
        if not pairs:
            raise UserError(
                "data.root", f"{root} has no images/train beside labels/train, nor train/images", "correct it"
            )
        if "train" not in pairs:
            raise UserError("data.root", f"{root} has {', '.join(pairs)}, but no train", "name a folder train")
        names, found, numbers = classes_in(root, pairs), dict[str, list[Pictured]](), set[int]()
        without = alone = twice = 0
        for split, (images, labels) in pairs.items():
            found[split] = []
            for path in images_below(images, left_out):
                file = labels / path.relative_to(images).with_suffix(".txt")
                without += not file.is_file()
                image, seen = read_labels(path, file, names)
                numbers |= seen
                every, image.boxes = len(image.boxes), list(dict.fromkeys(image.boxes))
                twice += every - len(image.boxes)
                found[split].append(image)
            named = {image.path.relative_to(images).with_suffix("") for image in found[split]}
            alone += sum(p.relative_to(labels).with_suffix("") not in named for p in text_files(labels))
            if not found[split]:
                raise UserError("data", f"{images} has no images", "add images, or remove the folder")
        if names is None:
            names = [str(number) for number in range(max(numbers, default=0) + 1)]
            notes.append(f"no {CONFIGS[0]} or {LISTED} names the classes: they are the numbers 0 to {len(names) - 1}")
        if without:
            notes.append(f"{plural(without, 'image')} without a label file: taken to have no objects")
        if twice:
            notes.append(f"left out {plural(twice, 'repeated line')} of label files")
        if alone:
            notes.append(f"left out {plural(alone, 'label file')} without image")
        notes += [f"left out {path.relative_to(root)}, which has no label files" for path in unlabelled(root, pairs)]
        return self.of_files(root, found, names, [*left_out.lines(), *notes])


def yolo_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """Folders of images and of labels of each split (`train` alone if there are no splits); empty if they are not there."""
    if (root / "images").is_dir() and (root / "labels").is_dir():
        splits = by_kind(folders_in(root / "images", LeftOut()))
        if splits:
            pairs = {
                kind: (root / "images" / n[0], root / "labels" / n[0])
                for kind, n in splits.items()
                if (root / "labels" / n[0]).is_dir()
            }
        else:
            pairs = {"train": (root / "images", root / "labels")}
    else:
        pairs = {
            kind: (root / n[0] / "images", root / n[0] / "labels")
            for kind, n in by_kind(folders_in(root, LeftOut())).items()
            if (root / n[0] / "images").is_dir() and (root / n[0] / "labels").is_dir()
        }
    texts = {kind: pair for kind, pair in pairs.items() if text_files(pair[1])}
    return {kind: texts[kind] for kind in ("train", "val", "test") if kind in texts}


def text_files(labels: Path) -> list[Path]:
    """The label files in a folder, beside which a list of classes may be."""
    return [path for path in labels.rglob("*.txt") if path.name != LISTED]


def unlabelled(root: Path, pairs: dict[str, tuple[Path, Path]]) -> list[Path]:
    """Folders of images that are named as a split and have no label files."""
    split = [root / "images" / n for n in folders_in(root / "images", LeftOut())] if (root / "images").is_dir() else []
    whole = [root / n / "images" for n in folders_in(root, LeftOut()) if (root / n / "images").is_dir()]
    named = [path for path in split if split_of(path.name)] + [path for path in whole if split_of(path.parent.name)]
    return [path for path in named if path not in {images for images, _ in pairs.values()}]


def classes_in(root: Path, pairs: dict[str, tuple[Path, Path]]) -> list[str] | None:
    """Names of the classes by data.yaml or lists; None if there are none. Raises UserError for a damaged file."""
    path = next((root / name for name in CONFIGS if (root / name).is_file()), None)
    if path is None:
        return listed_classes(root, [labels for _, labels in pairs.values()])
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError("data", f"{path} cannot be read: {' '.join(str(error).split())}", "replace it") from None
    names = held.get("names") if isinstance(held, dict) else None
    if isinstance(names, dict) and all(isinstance(n, int) for n in names):
        if sorted(names) != list(range(len(names))):
            raise UserError("data", f"{path}: the numbers of names must be 0 to {len(names) - 1}, got {sorted(names)}")
        names = [names[number] for number in sorted(names)]
    if not isinstance(names, list) or not names or len(set(map(str, names))) < len(names):
        raise UserError("data", f"{path} must have names, a list of different classes, got {names!r:.80}", "correct it")
    if (count := held.get("nc")) is not None and count != len(names):
        raise UserError("data", f"{path} has nc {count!r:.40}, but names {len(names)} classes", "correct one of them")
    return [str(name) for name in names]


def listed_classes(root: Path, labels: list[Path]) -> list[str] | None:
    """Names of the classes by the lists in folders of labels and in those around them up to root; None if there are none.
    Raises UserError for a damaged list, and for lists that differ.
    """
    folders = dict.fromkeys(around for one in labels for around in (one, *one.parents) if around.is_relative_to(root))
    found = dict[Path, list[str]]()
    for path in (around / LISTED for around in folders if (around / LISTED).is_file()):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError("data", f"{path} cannot be read: {error}", "replace it, or write data.yaml") from None
        found[path] = [line.strip() for line in lines if line.strip()]
        if not found[path] or len(set(found[path])) < len(found[path]):
            raise UserError("data", f"{path} must have a different class in each line", "correct it")
    if not found:
        return None
    (first, names), *others = found.items()
    if other := next((path for path, named in others if named != names), None):
        raise UserError("data", f"{first} and {other} name different classes", "correct one, or name them in data.yaml")
    return names


def read_labels(image: Path, file: Path, names: list[str] | None) -> tuple[Pictured, set[int]]:
    """An image with the boxes of its label file, and the numbers of their classes. Raises UserError for a wrong line."""
    found = Pictured(image, None)
    try:
        found.size = size_of_file(image)
    except DAMAGE:
        found.refused = "it is damaged, or not an image"
        return found, set()
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines() if file.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        found.refused = f"its {file.name} cannot be read: {error}"
        return found, set()
    height, width = found.size
    numbers = set[int]()
    for at, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{file}:{at}"
        try:
            first, *rest = (float(v) for v in line.split())
            number = int(first)
            if number != first or number < 0 or len(rest) < 4 or (len(rest) > 4 and len(rest) % 2):
                raise ValueError
            if not all(map(isfinite, rest)):
                raise ValueError
        except (ValueError, OverflowError):
            raise UserError("data", f"{where} must be class x y width height, got '{line:.60}'", "correct it") from None
        if names is not None and number >= len(names):
            raise UserError(
                "data", f"{where} has the class {number}, but the list of classes names {len(names)}", "correct it"
            )
        if min(rest) < -OUTSIDE or max(rest) > 1 + OUTSIDE:
            raise UserError(
                "data",
                f"{where} has numbers outside 0 to 1 ('{line:.60}'), but they must be shares of the image's sides",
                "divide x and width by the image's width, y and height by its height",
            )
        numbers.add(number)
        found.boxes.append(Box(*corners_of(rest, width, height), names[number] if names is not None else str(number)))
    return found, numbers


def corners_of(shares: list[float], width: int, height: int) -> tuple[float, float, float, float]:
    """Left, top, right, bottom in pixels, of centre and size or of a polygon."""
    if len(shares) > 4:
        xs, ys = shares[0::2], shares[1::2]
        return min(xs) * width, min(ys) * height, max(xs) * width, max(ys) * height
    x, y, across, down = shares
    return (x - across / 2) * width, (y - down / 2) * height, (x + across / 2) * width, (y + down / 2) * height
