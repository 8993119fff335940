"""Infers a data block from images that a table lists with sets of labels or numbers, and from COCO's categories."""

from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, classes_said
from sft_lightning.autoconfig.one_load import load_as_fit_does, settings_of
from sft_lightning.core.errors import UserError
from sft_lightning.data.base import SFTDataModule, Splits
from sft_lightning.data.text.files import Table, read_table
from sft_lightning.data.vision.coco import found_files
from sft_lightning.data.vision.coco_labels import CocoLabels
from sft_lightning.data.vision.image_table import ImageTable
from sft_lightning.data.vision.multi_label_images import MultiLabelImages


def check_files(table: Table, image: str, what: str) -> None:
    """Raises UserError if a table holds its images instead of naming files."""
    if image not in table.columns:
        raise UserError(
            "--data",
            f"{table.where} holds its images in column '{image}', and {what}, which are read for images in files alone",
            "save the images as files, and name them in a table",
        )


def sets_plan(files: dict[str, Path], table: Table, image: str, labels: dict[str, Any], said: Overrides) -> DataPlan:
    """Plans `MultiLabelImages` data; `labels` are its arguments on labels."""
    check_files(table, image, "sets of labels")
    init: dict[str, Any] = {"file_column": image, **labels}
    plan = DataPlan("image", "multi_label", {"class_path": "MultiLabelImages", "init_args": init}, 0)
    reader = MultiLabelImages(**init | settings_of(MultiLabelImages, said))
    for split, file in files.items():
        if split != "train" and reader.sets.unlabelled(read_table(file, "--data")):
            use = "test on" if split == "test" else "validate on"
            plan.lines.append(f"{file} has no labels: left out, to {use} a share of train")
        else:
            init[split] = str(file)
    where = f"column '{init['label_column']}'" if "label_column" in init else "columns of 0 and 1"
    add_sets(plan, MultiLabelImages, said, f"{table.where}: {{}} images in column '{image}', sets of labels in {where}")
    return plan


def coco_plan(path: str, said: Overrides) -> DataPlan:
    """Plans `CocoLabels` data: the categories of each image."""
    init = {"root": path}
    plan = DataPlan("image", "multi_label", {"class_path": "CocoLabels", "init_args": init}, 0)
    add_sets(
        plan, CocoLabels, said, f"{path}: {{}} images, the categories that COCO's JSON has in each as a set of labels"
    )
    return plan


def has_coco(where: Path, said: Overrides) -> bool:
    """Whether a folder has COCO's annotations, and the user wants their categories as sets of labels."""
    return said.task == "multi_label" and where.is_dir() and bool(found_files(where))


def add_sets(plan: DataPlan, cls: type[SFTDataModule], said: Overrides, line: str) -> None:
    """Loads, counts the labels, and adds the first line, with the number of images in place of {}."""
    loaded = load_as_fit_does(plan, cls, said)
    used = targets_of(loaded)
    plan.counts = dict(zip(loaded.labels, used.sum(0, dtype=np.int64).tolist(), strict=True))
    each, none = used.sum(1), int((used.sum(1) == 0).sum())
    counts = classes_said(plan, ("label", "s"))
    plan.lines.insert(
        0, f"{line.format(f'{plan.train:,}')}: {counts}; {each.mean():.2f} an image, {none:,} images without any"
    )


def values_plan(files: dict[str, Path], table: Table, image: str, label: str, said: Overrides) -> DataPlan:
    """Plans `ImageTable` data with a number for each image."""
    check_files(table, image, f"column '{label}' holds numbers to predict")
    init: dict[str, Any] = {"file_column": image, "label_column": label, "task": "regression"}
    init |= {split: str(file) for split, file in files.items()}
    plan = DataPlan("image", "regression", {"class_path": "ImageTable", "init_args": init}, 0)
    values = targets_of(load_as_fit_does(plan, ImageTable, said)).astype(np.float64)
    plan.variance = float(values.var())
    if not plan.variance > 0:
        raise UserError(
            "--data", f"{table.where}: all values in column '{label}' are {values[0]:g}", "set --label_column"
        )
    plan.lines.insert(
        0,
        f"{table.where}: {plan.train:,} images in column '{image}', values in column '{label}' (regression, standard "
        f"deviation {plan.variance**0.5:.3g})",
    )
    return plan


def targets_of(loaded: Splits) -> np.ndarray:
    """The targets of the training rows that can be used."""
    targets = loaded.train.targets
    assert targets is not None
    return np.delete(targets, list(loaded.train.bad_rows()), axis=0)
