"""Infers a data block from folders of images and masks, and from tables that hold both."""

from inspect import signature
from pathlib import Path
from typing import Any

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, check_classes, fits
from sft_lightning.autoconfig.held_bytes import held_bytes
from sft_lightning.autoconfig.one_load import load_as_fit_does
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.saved import is_saved, load_saved
from sft_lightning.data.vision.cityscapes import Cityscapes, cityscapes_in
from sft_lightning.data.vision.hub_masks import MASK_COLUMNS, HubSegmentation
from sft_lightning.data.vision.mask_folder import MaskFolder, layout_of
from sft_lightning.data.vision.masked_rows import MaskedRows
from sft_lightning.data.vision.oxford_pet import OxfordPet, pets_in
from sft_lightning.data.vision.segmentation import SegmentationData
from sft_lightning.data.vision.voc import VOCSegmentation, voc_in

TASK = "semantic_segmentation"
LARGEST, SEEN = 256, 200
"""Pixels of a side that larger images are resized to; number of images whose sizes are looked at"""


def has_masks(where: Path, said: Overrides) -> bool:
    """Whether a folder has images beside masks, or the user says how both are named."""
    if said.task == TASK or {"images", "masks"} & said.settings.keys():
        return True
    return said.task is None and (known_layout(where) is not None or layout_of(where) is not None)


def known_layout(where: Path) -> type[SegmentationData] | None:
    """The data module of a well-known data set's own layout; None if the folder has another."""
    if voc_in(where) is not None:
        return VOCSegmentation
    if cityscapes_in(where):
        return Cityscapes
    return OxfordPet if pets_in(where) is not None else None


def table_of_masks(where: Path, said: Overrides) -> dict[str, Any] | None:
    """Arguments of HubSegmentation for a parquet file, a folder of them, or what `datasets` saved, if a column of images is
    beside one of masks; None for other data, such as folders of both.
    """
    folders = where.is_dir() and (known_layout(where) is not None or layout_of(where) is not None)
    if said.task not in (None, TASK) or folders or {"images", "masks"} & said.settings.keys():
        return None
    there = columns_of_images(where)
    mask = said.settings.get("mask_column") or next((name for name in MASK_COLUMNS if name in there), None)
    others = [name for name in there if name != mask]
    image = said.image_column or said.settings.get("image_column") or ("image" if "image" in others else None)
    image = image or (others[0] if len(others) == 1 else None)
    if mask not in there or image not in others:
        return None
    return {"path": str(where), **({} if image == "image" else {"image_column": image}), "mask_column": mask}


def columns_of_images(where: Path) -> list[str]:
    """The columns of a table that hold encoded images; empty if there is no such table."""
    if where.is_dir() and is_saved(str(where)):
        from datasets import Image

        table = next(iter(load_saved(str(where)).values()))
        return [name for name, feature in table.features.items() if isinstance(feature, Image)]
    near = [where, where / "data"] if where.is_dir() else []  # as snapshots of the hub have them
    files = [where] if where.suffix.lower() == ".parquet" else sorted(f for one in near for f in one.glob("*.parquet"))
    return [name for name, held in held_bytes(files[0]).items() if held] if files else []


def masks_plan(path: str, kinds: tuple[str, ...], network: str, said: Overrides) -> DataPlan:
    """Plans `MaskFolder` data. Raises UserError for the errors of `fit`."""
    fix = "choose a network that segments, or --task classification if these folders are classes"
    fits(kinds, ("masks",), network, f"{path} is images with masks", fix)
    of_masks = signature(SegmentationData.__init__).parameters
    init: dict[str, Any] = {"root": path} | {n: value for n, value in said.settings.items() if n in of_masks}
    patterns, where = {"images", "masks"} & said.settings.keys(), Path(path).expanduser()
    cls: type[SegmentationData] = (None if patterns else known_layout(where)) or MaskFolder
    if (of_table := table_of_masks(where, said)) is not None:
        cls, init = HubSegmentation, of_table | {n: value for n, value in init.items() if n != "root"}
    plan = DataPlan("masks", TASK, {"class_path": cls.__name__, "init_args": init}, 0)
    loaded = load_as_fit_does(plan, cls, said)
    train = loaded.train
    assert isinstance(train, MaskedRows)
    held = [kinds for row, kinds in enumerate(train.types_in()) if row not in train.refused]
    plan.counts = {label: sum(label in kinds for kinds in held) for label in loaded.labels}
    check_classes(path, "its masks", plan)
    found = ", ".join(f"{label} in {count:,}" for label, count in list(plan.counts.items())[:8])
    more = ", …" if len(plan.counts) > 8 else ""
    plan.lines.insert(
        0, f"{path}: {plural(plan.train, 'image')} with masks of {len(plan.counts)} classes ({found}{more})"
    )
    sizes = sizes_of(train, path)
    if "window" not in init and "image_size" not in init and (len(sizes) > 1 or max(max(sizes)) > LARGEST):
        init["image_size"] = min(LARGEST, max(max(size) for size in sizes))
        most = "×".join(map(str, max(sizes)))
        plan.lines.append(
            f"images (up to {most}) are resized to {init['image_size']}×{init['image_size']}: --set data.image_size=N, or "
            "data.window=N to see them at their own size in windows"
        )
    return plan


def sizes_of(samples: MaskedRows, path: str) -> set[tuple[int, int]]:
    """Height and width of some images. Raises UserError if none can be read."""
    found = set()
    for row in range(0, len(samples), max(1, len(samples) // SEEN)):
        try:
            found.add(samples.size_of(row))
        except (BadSample, OSError, ValueError, SyntaxError):
            continue  # reading the sample will raise the error, or skip it
    if not found:
        raise UserError("--data", f"no image of {path} can be read", "replace them")
    return found
