"""Infers a data block from a file or folder: inputs, labels, task and splits."""

from pathlib import Path

import numpy as np

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, check_classes, classes_said, fits
from sft_lightning.autoconfig.data_settings import check_places
from sft_lightning.autoconfig.infer_audio import sound_folder, sound_plan
from sft_lightning.autoconfig.infer_boxes import boxes_plan, has_boxes
from sft_lightning.autoconfig.infer_listed import coco_plan, has_coco
from sft_lightning.autoconfig.infer_masks import has_masks, masks_plan, table_of_masks
from sft_lightning.autoconfig.infer_pairs import pair_plan, parallel_files
from sft_lightning.autoconfig.infer_plain import plain_files, plain_plan
from sft_lightning.autoconfig.infer_speech import speech_plan, transcripts_at
from sft_lightning.autoconfig.infer_table import files_of, largest, table_plan
from sft_lightning.autoconfig.infer_tagged import tagged_files, tagged_plan
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.bad_samples import printable
from sft_lightning.data.split_names import by_kind
from sft_lightning.data.text.files import FORMATS
from sft_lightning.data.vision.image_folder import labelled
from sft_lightning.data.vision.layout import Layout, layout_of
from sft_lightning.data.vision.walk import LeftOut, folders_in, holds_images


def infer_data(path: str, kinds: tuple[str, ...], network: str, said: Overrides) -> DataPlan:
    """Plans the data at `path` for a network that takes one of `kinds`. Raises UserError if it is damaged or ambiguous."""
    check_places(said.settings)
    where = Path(path).expanduser()
    if not where.exists():
        here = [p.name for p in where.parent.iterdir()] if where.parent.is_dir() else []
        raise UserError("--data", f"{path} does not exist{nearest(where.name, here)}")
    try:
        if has_coco(where, said):
            fits(kinds, ("image",), network, f"{path} is images with COCO's categories as labels (--task multi_label)")
            return coco_plan(path, said)
        if where.is_dir() and has_boxes(where, said):
            return boxes_plan(path, kinds, network, said)
        if (where.is_dir() and has_masks(where, said)) or table_of_masks(where, said) is not None:
            return masks_plan(path, kinds, network, said)
        if where.is_dir() and (images := image_folders(where)) is not None:
            fits(kinds, ("image",), network, f"{path} is a folder of images")
            return folder_plan(path, images, said)
        if (speech := transcripts_at(where, kinds, said)) is not None:
            return speech_plan(path, speech, kinds, network, said)
        if where.is_dir() and sound_folder(where):
            fits(kinds, ("audio",), network, f"{path} is a folder of sounds")
            return sound_plan(path, said)
        if where.is_dir() and (parallel := parallel_files(where, said)):
            fits(kinds, ("pairs",), network, f"{path} has parallel text files")
            return pair_plan(parallel, said)
        if (tagged := tagged_files(where, kinds, said)) is not None:
            other = " (--task causal_lm reads it as plain text)" if "tokens" in kinds and where.suffix == ".txt" else ""
            fits(kinds, ("words",), network, f"{path} is sentences with a tag for each word{other}")
            return tagged_plan(*tagged, said)
        if said.task == "token_classification":
            raise UserError(
                "--task", f"{path} has no words with tags", "give columns, CoNLL-U, or lists of tokens and tags"
            )
        if (plain := plain_files(where)) is not None:
            return plain_plan(plain, kinds, network, said)
        return table_plan(files_of(where), kinds, network, said)
    except UserError as error:
        start, _, name = error.key.partition(".")
        if start == "data" and name not in said.settings:  # of functions that read data for `fit`, too
            raise error.at("--data") from None
        raise


# ---- folders of images ----


def image_folders(folder: Path) -> Layout | None:
    """Finds split folders with class folders; None without any. Raises UserError if the layout is ambiguous."""
    below = folders_in(folder, LeftOut())
    if not any(map(holds_images, below.values())):
        if not any(p.suffix.lower() in FORMATS for p in folder.iterdir()) and holds_images(folder):
            raise UserError(
                "--data",
                f"{folder} has images, but no class folders",
                "put the images of each class into a folder of its own",
            )
        return None
    split_folders = by_kind(below)
    sorted_by_class = any(
        holds_images(p) for n in split_folders.get("train", []) for p in folders_in(below[n], LeftOut()).values()
    )
    if any(p.suffix.lower() in FORMATS for p in folder.iterdir()) and not sorted_by_class:
        return None  # a table that names images
    return layout_of(folder)


def folder_plan(path: str, layout: Layout, said: Overrides) -> DataPlan:
    """Plans `ImageFolder` data, with one folder per class."""
    if said.task not in (None, "classification"):
        raise UserError(
            "--task", f"{path} is a folder of images by class, not data for {said.task}", "use classification"
        )
    found, folders = labelled(layout)
    names, train = [printable(name) for name in folders], found["train"]
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
    check_classes(path, "its folders", plan, said.fewest_classes)
    plan.lines = [f"{path}: {len(train):,} images in {classes_said(plan)}, by folder", *train.notes]
    return plan
