"""COCO's files of annotations: images with boxes in JSON."""

import json
import os
from collections.abc import Sequence
from os.path import isfile  # False for names that are too long, as addresses may be, where Path raises
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.bad_samples import printable
from sft_lightning.data.base import Splits
from sft_lightning.data.split_names import split_of
from sft_lightning.data.vision.boxed import Boxed
from sft_lightning.data.vision.boxes import FORMATS, Box, as_corners, check_format
from sft_lightning.data.vision.detection import DetectionData, Pictured
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.data.vision.paths import real, real_folder

FOLDERS = ("annotations", "")
"""Folders below root in which files of annotations are looked for"""
BOM = b"\xef\xbb\xbf"
FORMAT_FIX = "set data.init_args.box_format {}"


class CocoDetection(DetectionData):
    """Images with boxes in COCO's JSON: `annotations/instances_train2017.json` beside `train2017/`, and the like.

    A split's file of annotations is found by the split's name in its own, below root or root/annotations, or given. Images are
    looked for below root in the folder that is named as the file of annotations without `instances_`, or as the split, or
    `images`, with either of these below it, or beside the file. Classes are in the order of their ids, which may have gaps.
    Ids without annotations in the training file are classes too.

    Args:
        root: The folder that holds all.
        train: File of the training annotations; default found by its name.
        val: File of the validation annotations; default found by its name, else val_fraction is set aside.
        test: File of the test annotations; default found by its name.
        images: Folder of the images, below root; may have {split}; default found.
        box_format: What a box's four numbers are: xywh (left, top, width, height), as COCO has it, or xyxy.
        **kwargs: Classes, size and augmentation, subset, split, batches; see DetectionData.
    """

    def __init__(
        self,
        root: str,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        images: str | None = None,
        box_format: Literal["xywh", "xyxy"] = "xywh",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root, self.files, self.images, self.box_format = root, (train, val, test), images, box_format
        if box_format not in FORMATS:
            raise UserError("data.box_format", f"must be {' or '.join(FORMATS)}, got '{box_format}'")

    def load(self) -> Splits:
        root, notes = folder(self.root, "root"), list[str]()
        files = files_of(root, self.files)
        found, names, ids = dict[str, list[Pictured]](), dict[int, str](), dict[str, list[Any]]()
        for split, path in files.items():
            held = read(path)
            own = categories(held, path)
            if names and own != names:
                raise UserError(
                    "data", f"{path} has other categories than {files['train']}", "use files of one data set"
                )
            if not names:
                names = own
                if (of := sorted(names)) != list(range(of[0], of[0] + len(of))):
                    missing = of[-1] - of[0] + 1 - len(of)
                    notes.append(
                        f"category ids {of[0]} to {of[-1]} have gaps ({missing:,} unused): classes are in their order"
                    )
            found[split] = self.pictured(root, held, names, path, places_of(root, split, path, self.images), notes)
            ids[split] = [entry["id"] for entry in held["images"]]
        splits = self.of_files(root, found, [names[number] for number in sorted(names)], notes)
        for split, samples in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
            if isinstance(samples, Boxed):
                samples.image_ids = ids[split]
                samples.category_ids = {name: number for number, name in names.items()}
        return splits

    def pictured(
        self,
        root: Path,
        held: dict[str, Any],
        names: dict[int, str],
        path: Path,
        places: list[Path],
        notes: list[str],
    ) -> list[Pictured]:
        """The images of a file with their boxes, in the file's order. What is left out is added to `notes`."""
        images, numbers = images_in(held, path, root, places), list[tuple[Any, list[float]]]()
        lonely = 0
        for entry in held["annotations"]:
            box = entry.get("bbox") if isinstance(entry, dict) else None
            if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, int | float) for v in box):
                raise UserError(
                    "data", f"{path}: each of annotations must have a bbox of four numbers, got {entry!r:.80}"
                )
            of, category = entry.get("image_id"), entry.get("category_id")
            if (image := images.get(of) if isinstance(of, int | str) else None) is None:
                lonely += 1
                continue
            if not isinstance(category, int) or category not in names:
                raise undefined(path, of, category)
            numbers.append((of, box))
            ignored = bool(entry.get("iscrowd")) or bool(entry.get("ignore")) or bool(entry.get("difficult"))
            image.boxes.append(Box(*as_corners(box, self.box_format), names[category], ignored))
        if lonely and lonely == len(held["annotations"]):
            raise UserError("data", f"{path}: no annotation has the image_id of one of the images", "correct the ids")
        if lonely:
            notes.append(f"left out {plural(lonely, 'annotation')} of {path.name} without image")
        sized = [(images[i].size, box) for i, box in numbers if images[i].size is not None]
        raw, sizes = np.array([box for _, box in sized]), np.array([size for size, _ in sized])
        notes += check_format(raw.reshape(-1, 4), sizes.reshape(-1, 2), self.box_format, FORMAT_FIX)
        return list(images.values())


def undefined(path: Path, image: object, category: object) -> UserError:
    """The error of an annotation whose category the file does not define."""
    what = f"an annotation of image_id {image!r:.40} has the category {category!r:.40}, which is not defined"
    return UserError("data", f"{path}: {what}", "add it to the file's categories, or correct the annotation")


def files_of(root: Path, given: Sequence[str | None]) -> dict[str, Path]:
    """The files of annotations of the splits train, val and test: those given, else found by their names."""
    files = found_files(root)
    for split, name in zip(("train", "val", "test"), given, strict=True):
        if name is not None:
            path = next((p for p in (Path(name).expanduser(), root / name) if p.is_file()), None)
            if path is None:
                raise UserError(f"data.{split}", f"{name} does not exist, nor below {root}", "correct the path")
            files[split] = path
    if "train" not in files:
        there = ", ".join(sorted(p.name for p in root.glob("*.json"))) or "no JSON file"
        raise UserError(
            "data.root", f"{root} has no file of training annotations ({there})", "name it in data.init_args.train"
        )
    return files


def places_of(root: Path, split: str, path: Path, images: str | None) -> list[Path]:
    """Folders in which a split's images may be, the likeliest first; `images` is their folder's name, if it is given."""
    if images is not None:
        return [root / images.replace("{split}", split), root / images.replace("{split}", path.stem)]
    stem = path.stem.removeprefix("instances_")
    under = [root / a / b for a in ("", "images") for b in (stem, split, path.parent.name)]
    return [*under, root / "images", path.parent, root]


def images_in(held: dict[str, Any], path: Path, root: Path, places: list[Path]) -> dict[Any, Pictured]:
    """The images of a file of annotations by id, in its order. Raises UserError if not one of them is on disk, or if one
    is named outside root.
    """
    images, tops = dict[Any, Pictured](), [root, *places]
    for entry in held["images"]:
        if not isinstance(entry, dict) or not {"id", "file_name"} <= entry.keys():
            raise UserError("data", f"{path}: each of images must have id and file_name, got {entry!r:.80}")
        if not isinstance(entry["id"], int | str):
            raise UserError("data", f"{path} has an image with the id {entry['id']!r:.40}", "use numbers")
        if entry["id"] in images:
            raise UserError("data", f"{path} has two images with the id {entry['id']}", "make ids unique")
        name = str(entry["file_name"])
        file = place_of(name, places)
        if leads_out(name, file, tops):
            problem = f"{path}: the image {name!r} lies outside the folder {root}"
            raise UserError("data", problem, "copy the images there, and correct file_name")
        images[entry["id"]] = Pictured(file, size_in(entry, path))
    missing = [printable(str(i.path)) for i in images.values() if not isfile(i.path)]
    if len(missing) == len(images):
        raise UserError(
            "data",
            f"not one image of {path} is on disk; the first, {missing[0] if missing else 'none'}, was looked for in "
            f"{', '.join(dict.fromkeys(str(p) for p in places if p.is_dir()))}",
            "set data.init_args.images to their folder below root",
        )
    return images


def place_of(name: str, places: list[Path]) -> Path:
    """Where an image is, or, if it is nowhere, may have been. Names may be written as on Windows."""
    for one in (name, name.replace("\\", "/")):
        for place in places:
            if isfile(place / one):
                return place / one
    return places[0] / name


def leads_out(name: str, file: Path, tops: Sequence[Path]) -> bool:
    """Whether a name leads out of all these folders, by steps up or as a whole path; their own links may lead anywhere."""
    if not os.path.isabs(name) and ".." not in name.replace("\\", "/").split("/"):
        return False
    place = real(str(file))
    return not any(place.startswith(os.path.join(real_folder(str(top)), "")) for top in tops)


def size_in(entry: dict[str, Any], path: Path) -> tuple[int, int] | None:
    """Height and width of an image by its entry; None if it does not say."""
    try:
        height, width = (int(entry.get(side) or 0) for side in ("height", "width"))
    except (TypeError, ValueError, OverflowError):
        height = width = -1
    if min(height, width) < 0:
        raise UserError("data", f"{path}: height and width must be numbers of pixels, got {entry!r:.80}", "correct it")
    return (height, width) if height and width else None


def found_files(root: Path) -> dict[str, Path]:
    """The file of annotations of each split, by the split's name in the file's or its folder's. One file alone is `train`.

    Raises UserError for two of one split.
    """
    every = [p for place in FOLDERS for p in sorted((root / place).glob("*.json"))]
    every += sorted(root.glob("*/_annotations.coco.json"))  # as Roboflow exports them
    files: dict[str, Path] = {}
    candidates = [p for p in every if looks_like(p)]
    for path in candidates:
        stem = path.stem.removeprefix("instances_") if path.stem != "_annotations.coco" else path.parent.name
        split = split_of(stem) or split_of(stem.split("_")[-1])
        if split is None:
            continue
        if split in files:
            raise UserError(
                "data.root", f"{files[split]} and {path} both look like {split}", f"name one in data.init_args.{split}"
            )
        files[split] = path
    if not files and len(candidates) == 1:
        files["train"] = candidates[0]
    return {split: files[split] for split in ("train", "val", "test") if split in files}


def looks_like(path: Path) -> bool:
    """Whether a JSON file may be annotations with boxes, by its name, its beginning and its end: not COCO's captions or
    keypoints, nor JSON of another kind.
    """
    if path.name.startswith(("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")):
        return False
    try:
        with path.open("rb") as stream:
            begin = stream.read(1 << 16)
            stream.seek(max(0, path.stat().st_size - (1 << 16)))
            both = begin + stream.read()
    except OSError:
        return False
    return (
        begin.removeprefix(BOM).lstrip().startswith(b"{")
        and b'"annotations"' in both
        and (b'"bbox"' in both or b'"images"' in both)
    )


def read(path: Path) -> dict[str, Any]:
    """A file of annotations. Raises UserError if it is damaged."""
    try:
        held = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError("data", f"{path} cannot be read: {error}", "replace it") from None
    lists = ("images", "annotations", "categories")
    if not isinstance(held, dict) or not all(isinstance(held.get(name), list) for name in lists):
        raise UserError("data", f"{path} must be a mapping with the lists {', '.join(lists)}", "use COCO's format")
    return held


def categories(held: dict[str, Any], path: Path) -> dict[int, str]:
    """Names of the classes by id."""
    names: dict[int, str] = {}
    for entry in held["categories"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int) or "name" not in entry:
            raise UserError("data", f"{path}: each of categories must have a numeric id and a name, got {entry!r:.80}")
        if entry["id"] in names or str(entry["name"]) in names.values():
            raise UserError("data", f"{path} has two categories of one id or name: {entry!r:.80}", "make them unique")
        names[entry["id"]] = str(entry["name"])
    if not names:
        raise UserError("data", f"{path} has no category", "add categories")
    return names
