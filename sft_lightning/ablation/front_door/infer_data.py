"""From a file or a folder to a data block: what is predicted from what, and what is set aside to test on."""

from pathlib import Path

import numpy as np

from sft_lightning.ablation.front_door.data_plan import DataPlan, Overrides, check_classes, classes_said, fits
from sft_lightning.ablation.front_door.infer_table import VALIDATIONS, files_of, largest, table_plan
from sft_lightning.data.text.files import FORMATS
from sft_lightning.data.vision.image_folder import VALIDATION, images_below, labelled
from sft_lightning.errors import UserError, nearest


def infer_data(path: str, kinds: tuple[str, ...], network: str, said: Overrides) -> DataPlan:
    """What `path` holds for a network that takes one of `kinds`. Raises UserError in one line for what cannot be told."""
    where = Path(path).expanduser()
    if not where.exists():
        here = [p.name for p in where.parent.iterdir()] if where.parent.is_dir() else []
        raise UserError(f"--data: {path}: no such file or folder{nearest(where.name, here)}")
    try:
        if where.is_dir() and (images := image_folders(where)) is not None:
            fits(kinds, ("image",), network, f"{path} is a folder of images")
            return folder_plan(path, images, said)
        return table_plan(files_of(where), kinds, network, said)
    except UserError as error:
        text = str(error)
        for prefix in ("data.root:", "data:"):  # said by what reads data for `fit` too
            if text.startswith(prefix):
                raise UserError(f"--data:{text.removeprefix(prefix)}") from None
        raise


# ---- folders of images ----


def image_folders(folder: Path) -> dict[str, Path] | None:
    """The folders of class folders by split, `train` at least; None where these are none."""
    below = {p.name: p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")}
    if "train" in below and any(images_below(p) for p in below["train"].iterdir() if p.is_dir()):
        val = next((below[n] for n in VALIDATION if n in below), None)
        found = {"train": below["train"], "val": val, "test": below.get("test")}
        return {split: path for split, path in found.items() if path is not None}
    if any(p.suffix.lower() in FORMATS for p in folder.iterdir()):
        return None
    splits = [n for n in below if n in ("test", *VALIDATIONS)]
    if splits and len(splits) == len(below):
        raise UserError(f"--data: {folder} has {', '.join(splits)}, and no train")
    if any(images_below(p) for p in below.values()):
        return {"train": folder}
    if images_below(folder):
        raise UserError(f"--data: {folder} has images, and no folder for each class: sort them into class folders")
    return None


def folder_plan(path: str, folders: dict[str, Path], said: Overrides) -> DataPlan:
    """`ImageFolder` on one folder per class."""
    if said.task not in (None, "classification"):
        raise UserError(f"--task: a folder of images by class is a classification, not a {said.task}")
    names = sorted(p.name for p in folders["train"].iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {split: labelled(root, names) for split, root in folders.items()}
    train = found["train"]
    assert train.targets is not None
    counts = dict(zip(names, np.bincount(train.targets, minlength=len(names)).tolist(), strict=True))
    first = [train.paths[int(np.flatnonzero(train.targets == i)[0])] for i in range(len(names))]
    plan = DataPlan(
        "image",
        "classification",
        {"class_path": "ImageFolder", "init_args": {"root": path}},
        len(train),
        len(found["val"]) if "val" in found else None,
        len(found["test"]) if "test" in found else None,
        counts,
    )
    plan.pixels = largest(first)
    check_classes(path, "its folders", plan)
    plan.lines = [f"{path}: {len(train):,} images in {classes_said(plan)}, by folder"]
    return plan
