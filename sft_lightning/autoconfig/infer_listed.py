"""Infers a data block from images that a table lists with sets of labels or numbers, and from COCO's categories."""

from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, classes_said
from sft_lightning.autoconfig.infer_columns import listed
from sft_lightning.autoconfig.one_load import load_as_fit_does, settings_of
from sft_lightning.core.errors import UserError
from sft_lightning.data.base import SFTDataModule, Splits
from sft_lightning.data.text.cells import missing, numbers
from sft_lightning.data.text.files import Table, read_table
from sft_lightning.data.text.label_sets import indicator
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


def several_numbers(table: Table, said: Overrides) -> list[str] | None:
    """Columns of numbers to predict together, which `--label_column` names with commas between; None for other labels.

    Columns of 0 and 1 are sets of labels, unless the task is regression.
    """
    given = said.label_column
    if given is None or given in table.columns or said.task not in (None, "regression"):
        return None
    parts = [part.strip() for part in given.split(",")]
    if len(parts) < 2 or not all(part in table.columns for part in parts):
        return None
    of_numbers = all(numbers([v for v in table.columns[part] if not missing(v)]) is not None for part in parts)
    sets = all(indicator(v) is not None for part in parts for v in table.columns[part])
    return parts if said.task == "regression" or (of_numbers and not sets) else None


def values_plan(files: dict[str, Path], table: Table, image: str, labels: list[str], said: Overrides) -> DataPlan:
    """Plans `ImageTable` data with a number, or several, for each image."""
    one = len(labels) == 1
    where = f"column '{labels[0]}'" if one else f"columns {listed(labels)}"
    check_files(table, image, f"{where} {'holds' if one else 'hold'} numbers to predict")
    init: dict[str, Any] = {"file_column": image, "task": "regression"}
    init |= {"label_column": labels[0]} if one else {"label_columns": labels}
    init |= {split: str(file) for split, file in files.items()}
    plan = DataPlan("image", "regression", {"class_path": "ImageTable", "init_args": init}, 0)
    plan.labels = [] if one else labels
    values = targets_of(load_as_fit_does(plan, ImageTable, said)).astype(np.float64)
    spreads = values.reshape(len(values), -1).std(0)
    plan.variance = float(np.mean(spreads**2))
    for label, spread in zip(labels, spreads, strict=True):
        if not spread > 0:
            value = values.reshape(len(values), -1)[0, labels.index(label)]
            raise UserError(
                "--data", f"{table.where}: all values in column '{label}' are {value:g}", "set --label_column"
            )
    how = (
        f"standard deviation {spreads[0]:.3g}"
        if one
        else f"standard deviations {', '.join(f'{s:.3g}' for s in spreads)}"
    )
    plan.lines.insert(
        0, f"{table.where}: {plan.train:,} images in column '{image}', values in {where} (regression, {how})"
    )
    return plan


def targets_of(loaded: Splits) -> np.ndarray:
    """The targets of the training rows that can be used."""
    targets = loaded.train.targets
    assert targets is not None
    return np.delete(targets, list(loaded.train.bad_rows()), axis=0)
