"""Detects how a folder of images is laid out: split folders of class folders, or class folders alone."""

from dataclasses import dataclass, field
from pathlib import Path

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.split_names import by_kind, split_of, splits_of_one
from sft_lightning.data.vision.walk import (
    IMAGES,
    LeftOut,
    Wanted,
    folders_in,
    holds_images,
    images_below,
    is_hidden,
    some,
)

LAYOUT = "put class folders into train, val and test, or give class folders alone"


@dataclass
class Layout:
    """Folders of class folders."""

    splits: dict[str, Path]
    """`train`, and `val` and `test` if there are such folders"""
    has_splits: bool
    """Whether the folders are named as splits; otherwise `train` is a folder of class folders"""
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: list[str] = field(default_factory=list)
    """What was guessed"""


def layout_of(root: Path, wanted: Wanted = IMAGES) -> Layout:
    """Distinguishes split folders from class folders. Raises UserError, with their names, if that is ambiguous."""
    layout, left_out = Layout({}, False), LeftOut(wanted)
    layout.left_out = LeftOut(wanted)
    below = folders_in(root, left_out)
    splits = by_kind(below)
    alike = [name for names in splits.values() for name in names]
    others = [name for name, path in below.items() if name not in alike and holds_images(path, wanted)]
    if not alike:
        if same := splits_of_one(below):
            raise UserError(
                "data",
                f"{root}: the folders {', '.join(same)} look like the splits of one data set, not like classes",
                "name them train, val and test",
            )
        layout.splits = {"train": root}
        return layout
    for kind, names in splits.items():
        if len(names) > 1:
            raise UserError(
                "data", f"{root}: the folders {', '.join(names)} all look like the {kind} split", "merge or rename them"
            )
    if "train" not in splits:
        beside = f" beside {some(others)}" if others else ""
        raise UserError(
            "data",
            f"{root} has {', '.join(alike)}{beside}, but no train, and a folder with the name of a split is never a class",
            LAYOUT,
        )
    train = below[splits["train"][0]]
    classes = [name for name, path in folders_in(train, LeftOut()).items() if holds_images(path, wanted)]
    if others and (not classes or set(classes) & set(others)):
        raise UserError(
            "data",
            f"{root}: {' and '.join(alike)} {looks(alike)} like a split, {some(others)} like classes",
            f"{LAYOUT}; rename a class with the name of a split",
        )
    if others:
        layout.notes.append(f"left out the folders {some(others)} beside {train.name}")
    layout.splits = {kind: below[splits[kind][0]] for kind in ("train", "val", "test") if kind in splits}
    layout.has_splits, layout.left_out = True, left_out
    return layout


def classes_in(root: Path, left_out: LeftOut | None = None) -> list[str]:
    """Names of the folders below, sorted: the classes."""
    out = LeftOut() if left_out is None else left_out
    before = len(out.broken)
    names = sorted(folders_in(root, out))
    if len(out.broken) > before:
        raise UserError("data", f"{out.broken[before]} is a broken link", "mend or remove it")
    if not names:
        raise UserError(
            "data", f"{root} has no class folders", f"make one folder per class, with that class's {out.wanted.one}s"
        )
    if all(map(split_of, names)):
        raise UserError("data", f"{root} holds {some(names)}, which look like splits, not like classes", LAYOUT)
    return names


def class_images(root: Path, classes: list[str], left_out: LeftOut) -> dict[str, list[Path]]:
    """Images (or the files that `left_out` wants) of each class folder below `root`, in the folders' order. Each folder must
    be one of `classes`.
    """
    found, wanted = {}, left_out.wanted
    for name in classes_in(root, left_out):
        if name not in classes:
            problem = f"{root} has a class '{name}' that is not in train{nearest(name, classes)}"
            raise UserError("data", problem, "rename or remove it")
        found[name] = images_below(root / name, left_out)
        if not found[name]:
            problem = f"class folder {root / name} has no {wanted.one}s ({', '.join(wanted.suffixes)})"
            raise UserError("data", problem, f"add {wanted.one}s or remove it")
        if within := [
            n for n, p in folders_in(root / name, LeftOut()).items() if split_of(n) and holds_images(p, wanted)
        ]:
            raise UserError(
                "data",
                f"class folder {root / name} holds {some(within)}, which {looks(within)} like a split",
                "put the split folders around the class folders",
            )
    if loose := sum(
        p.is_file() and p.suffix.lower() in wanted.suffixes and not is_hidden(p.name) for p in root.iterdir()
    ):
        left_out.loose[root.name] += loose
    return found


def looks(names: list[str]) -> str:
    """The verb for one or several folders."""
    return "looks" if len(names) == 1 else "look"
