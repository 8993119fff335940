"""Images and masks in folders: `images/` and `masks/` and the like, in split folders or not, or by any naming rule."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.bad_samples import printable
from sft_lightning.data.base import Splits
from sft_lightning.data.split_names import by_kind, split_of
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.data.vision.segmentation import Pairs, SegmentationData
from sft_lightning.data.vision.walk import LeftOut, folders_in, holds_images, images_below, some

OF_IMAGES = ("images", "image", "imgs", "img", "jpegimages", "pictures", "photos", "inputs")
OF_MASKS = (
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "annotation",
    "segmentations",
    "segmentation",
    "gt",
    "targets",
)
"""Names of folders, in lower case; of masks also with an ending, such as labels_png"""
ENDINGS = (
    "_mask",
    "-mask",
    "_seg",
    "-seg",
    "_segmentation",
    "_label",
    "-label",
    "_labels",
    "_gt",
    "_annotation",
    "_anno",
)
"""What masks' names may have after the image's"""
FIX = "give patterns, such as data.init_args.images '{split}/img/{name}.jpg' and data.init_args.masks '{split}/seg/{name}.png'"


class MaskFolder(SegmentationData):
    """Images and their masks in folders: `images/` beside `masks/` (or `image/` beside `label/`, and so on).

    Both may hold split folders (`images/train`, `masks/train`), lie in split folders (`train/images`, `train/masks`), or
    hold all files; then `test_fraction` and `val_fraction` set some aside. A mask has its image's name, with another
    suffix or an ending such as `_mask`. Other naming rules are given as patterns. Hidden files are left out and counted.

    Args:
        root: The folder that holds all.
        images: Pattern of the images' paths below root with {name}, and {split} if folders are named as splits.
        masks: Pattern of the masks' paths, with the same.
        **kwargs: Classes, size and augmentation, subset, split, batches; see SegmentationData.
    """

    def __init__(self, root: str, images: str | None = None, masks: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root, self.images, self.masks = root, images, masks
        if (images is None) != (masks is None):
            raise UserError("data.images", "images and masks are one naming rule, and one is missing", "give both")

    def load(self) -> Splits:
        root, left_out, notes = folder(self.root, "root"), LeftOut(), list[str]()
        if self.images is not None and self.masks is not None:
            found = by_pattern(root, self.images, self.masks, left_out, notes)
        else:
            found = by_layout(root, left_out, notes)
        notes += left_out.lines()
        pairs = {split: paired(root, images, masks, notes, self.skips) for split, (images, masks) in found.items()}
        return self.masked(root, pairs, notes)


Files = tuple[dict[str, Path], dict[str, Path]]
"""Images and masks by the name that both have"""


def paired(root: Path, images: dict[str, Path], masks: dict[str, Path], notes: list[str], skips: bool) -> Pairs:
    """Each image with its mask or None, sorted by name. Masks without image end the run, or are counted in `notes`."""
    if lonely := sorted(masks.keys() - images.keys()):
        first = printable(str(masks[lonely[0]]))
        if not skips:
            more = f" (and {len(lonely) - 1} more)" if len(lonely) > 1 else ""
            raise UserError(
                "data", f"{first} is the mask of no image{more}", "remove it, or set data.on_bad_sample skip"
            )
        notes.append(f"left out {plural(len(lonely), 'mask')} without image ({first})")
    return [(images[name], masks.get(name)) for name in sorted(images)]


def by_layout(root: Path, left_out: LeftOut, notes: list[str]) -> dict[str, Files]:
    """Images and masks of each split, by the folders' names. Raises UserError if there are none, or several ways."""
    layout = layout_of(root, notes)
    if layout is None:
        raise UserError("data", f"{root} has no folder of images beside one of masks", FIX)
    found = {}
    for split, (images, masks) in layout.items():
        found[split] = matched(named_below(images, left_out), named_below(masks, left_out), masks)
        if not found[split][0]:
            raise UserError("data", f"{images} has no images", "add images, or remove the folder")
    return found


def layout_of(root: Path, notes: list[str] | None = None) -> dict[str, tuple[Path, Path]] | None:
    """The folders of images and of masks of each split (`train` if there are no splits); None if they are not there.

    What is left out is added to `notes`.
    """
    below, said, splits = folders_in(root, LeftOut()), notes if notes is not None else [], {}
    pair = pair_in(root, below)
    of_splits = {name: below[name] for names in by_kind(below).values() for name in names}
    if pair is not None:
        images, masks = (split_folders(one) for one in pair)
        said += [f"left out {name}, beside {pair[0].name}" for name, path in of_splits.items() if holds_images(path)]
        if not images:
            return {"train": pair}
        splits = {kind: (images[kind], masks[kind]) for kind in images if kind in masks}
        if not splits:
            raise UserError("data", f"{pair[0]} has {some(sorted(images))}, which {pair[1]} has not", FIX)
        said += [f"left out {path}, which has no masks" for kind, path in images.items() if kind not in masks]
        loose = [p for p in images_below(pair[0]) if not any(p.is_relative_to(path) for path in images.values())]
        if loose:
            said.append(f"left out {plural(len(loose), 'image')} beside the split folders ({printable(str(loose[0]))})")
    else:
        for kind, names in by_kind(below).items():
            inner = {n: pair for n in names if (pair := pair_in(below[n], folders_in(below[n], LeftOut())))}
            if len(inner) > 1:
                raise UserError(
                    "data", f"{root}: {some(list(inner))} all look like the {kind} split", "merge or rename them"
                )
            if inner:
                splits[kind] = next(iter(inner.values()))
            said += [f"left out {below[n]}, which has no images beside masks" for n in names if n not in inner]
    if splits and "train" not in splits:
        raise UserError("data", f"{root} has {', '.join(splits)}, but no train", "name a folder train")
    return {kind: splits[kind] for kind in ("train", "val", "test") if kind in splits} or None


def split_folders(root: Path) -> dict[str, Path]:
    """The folders below that are named as splits. Raises UserError for two of one split."""
    below = folders_in(root, LeftOut())
    for kind, names in by_kind(below).items():
        if len(names) > 1:
            raise UserError("data", f"{root}: {some(names)} all look like the {kind} split", "merge or rename them")
    return {kind: below[names[0]] for kind, names in by_kind(below).items()}


def pair_in(root: Path, below: dict[str, Path]) -> tuple[Path, Path] | None:
    """The folder of images and that of masks among some folders; None if one is missing. Raises UserError for several."""
    images = [n for n in below if n.lower() in OF_IMAGES and holds_images(below[n])]
    masks = [n for n in below if re.split(r"[_\W]", n.lower())[0] in OF_MASKS and holds_images(below[n])]
    if not images or not masks:
        return None
    if len(images) > 1 or len(masks) > 1:
        several = images if len(images) > 1 else masks
        raise UserError(
            "data", f"{root}: {' and '.join(several)} all look like {'images' if len(images) > 1 else 'masks'}", FIX
        )
    return below[images[0]], below[masks[0]]


def named_below(root: Path, left_out: LeftOut) -> dict[str, Path]:
    """Image files by their path below `root` without suffix. Raises UserError for two that differ in the suffix alone."""
    found: dict[str, Path] = {}
    for path in images_below(root, left_out):
        name = path.relative_to(root).with_suffix("").as_posix()
        if name in found:
            raise UserError("data", f"{found[name]} and {path} have the same name", "remove or rename one of them")
        found[name] = path
    return found


def matched(images: dict[str, Path], masks: dict[str, Path], where: Path) -> Files:
    """Masks by their image's name: as they are, or without the ending that most masks have."""
    if not masks or images.keys() & masks.keys():
        return images, masks
    for ending in ENDINGS:
        cut = {name.removesuffix(ending): path for name, path in masks.items() if name.endswith(ending)}
        if images.keys() & cut.keys():
            return images, cut | {name: path for name, path in masks.items() if not name.endswith(ending)}
    one, other = next(iter(images.values())), next(iter(masks.values()))
    raise UserError("data", f"no mask in {where} has the name of an image (as {one.name} and {other.name})", FIX)


# ---- patterns ----


def by_pattern(root: Path, images: str, masks: str, left_out: LeftOut, notes: list[str]) -> dict[str, Files]:
    """Images and masks of each split, by patterns of their paths below `root`."""
    every = {path.relative_to(root).as_posix(): path for path in images_below(root, left_out)}
    found: tuple[dict[tuple[str, str], Path], ...] = ({}, {})  # by split and name
    of_no_split: Counter[str] = Counter()
    for files, (key, pattern) in zip(found, (("images", images), ("masks", masks)), strict=True):
        matches = {path: m for name, path in every.items() if (m := expression(key, pattern).fullmatch(name))}
        if not matches:
            some_path = f"; a path there is {next(iter(every))}" if every else ", which has no images"
            raise UserError(f"data.{key}", f"'{pattern}' fits no image file below {root}{some_path}", "correct it")
        for path, match in matches.items():
            parts = match.groupdict()
            kind = "train" if "split" not in parts else split_of(parts["split"])
            if kind is None:
                of_no_split[parts["split"]] += key == "images"
                continue
            other = files.setdefault((kind, parts["name"]), path)
            if other != path:
                raise UserError(
                    f"data.{key}", f"{other} and {path} are {parts['name']} of {kind} both", "remove or rename one"
                )
    part(*found)
    if count := sum(of_no_split.values()):
        notes.append(f"left out {plural(count, 'image')} in folders that are no split ({some(list(of_no_split))})")
    splits: dict[str, Files] = {}
    for which, files in enumerate(found):
        for (kind, name), path in files.items():
            splits.setdefault(kind, ({}, {}))[which][name] = path
    if "train" not in splits or not splits["train"][0]:
        raise UserError("data.images", f"'{images}' finds no training images below {root}", "name a folder train")
    return {kind: splits[kind] for kind in ("train", "val", "test") if kind in splits}


def part(images: dict[tuple[str, str], Path], masks: dict[tuple[str, str], Path]) -> None:
    """Takes files that both patterns fit out of the kind in which they have no partner: `a_mask.png` is no image, if it is
    the mask of `a.png`.
    """
    as_masks = {path: name for name, path in masks.items()}
    for image, path in list(images.items()):
        mask = as_masks.get(path)
        if mask == image:
            raise UserError("data.masks", f"finds {path}, which is an image by data.images", FIX)
        if mask is not None and (mask in images) != (image in masks):
            del (images if mask in images else masks)[image if mask in images else mask]


def expression(key: str, pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern, in which {name} and {split} stand for any text and * for a part of a name."""
    if pattern.count("{name}") != 1 or pattern.count("{split}") > 1:
        raise UserError(f"data.{key}", f"must have one {{name}} and at most one {{split}}, got '{pattern}'")
    parts: Iterable[str] = re.split(r"(\{name\}|\{split\}|\*)", pattern)
    known = {"{name}": "(?P<name>.+)", "{split}": "(?P<split>[^/]+)", "*": "[^/]*"}
    return re.compile("".join(known.get(part, re.escape(part)) for part in parts))
