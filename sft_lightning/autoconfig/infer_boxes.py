"""Infers a data block from folders of images with boxes: COCO, Pascal VOC and YOLO."""

from pathlib import Path
from typing import Any

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, check_classes, fits
from sft_lightning.autoconfig.one_load import load_as_fit_does
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.vision.boxed import BoxedRows
from sft_lightning.data.vision.coco import CocoDetection, found_files
from sft_lightning.data.vision.detection import STEP, DetectionData
from sft_lightning.data.vision.voc import voc_in
from sft_lightning.data.vision.voc_boxes import VOCDetection, voc_boxes_in
from sft_lightning.data.vision.yolo import YOLOFolder, yolo_folders

TASK = "object_detection"
LARGEST = 512
"""Pixels of a side that larger images are resized to"""


def box_format(where: Path) -> tuple[type[DetectionData], str] | None:
    """The data module of a folder with boxes, and how its format is called; None if it has none."""
    if voc_boxes_in(where) is not None:
        return VOCDetection, "Pascal VOC's XML"
    if yolo_folders(where):
        return YOLOFolder, "YOLO's text files"
    if found_files(where):
        return CocoDetection, "COCO's JSON"
    return None


def has_boxes(where: Path, said: Overrides) -> bool:
    """Whether a folder has images with boxes. Pascal VOC with masks too is taken for masks, unless the user says otherwise."""
    if said.task is None and voc_in(where) is not None:
        return False
    return said.task in (None, TASK) and box_format(where) is not None


def boxes_plan(path: str, kinds: tuple[str, ...], network: str, said: Overrides) -> DataPlan:
    """Plans data of one of the formats. Raises UserError for the errors of `fit`."""
    where = Path(path).expanduser()
    found = box_format(where)
    assert found is not None
    cls, name = found
    fix = "choose a network that detects objects, such as a convolutional model of timm's"
    fix += ", or --task multi_label for the classes in each image" if cls is CocoDetection else ""
    fits(kinds, ("boxes",), network, f"{path} is images with boxes in {name}", fix)
    if "box_format" in said.settings and cls is not CocoDetection:
        raise UserError("data.box_format", f"has no effect on {name}, which say what their numbers are", "leave it out")
    init: dict[str, Any] = {"root": path}
    init |= {n: v for n, v in said.settings.items() if n in ("labels", "image_size", "augment", "box_format")}
    plan = DataPlan("boxes", TASK, {"class_path": cls.__name__, "init_args": init}, 0)
    loaded = load_as_fit_does(plan, cls, said)
    train = loaded.train
    assert isinstance(train, BoxedRows) and train.truth is not None
    held = train.types_in()
    plan.counts = {label: sum(label in classes for classes in held) for label in loaded.labels}
    if len(loaded.labels) > 1:
        check_classes(path, "its boxes", plan)
    classes = ", ".join(f"{label} in {count:,}" for label, count in list(plan.counts.items())[:8])
    more = ", …" if len(plan.counts) > 8 else ""
    plan.lines.insert(
        0,
        f"{path}: {plural(plan.train, 'image')} with {plural(len(train.truth.labels), 'box', 'es')} of "
        f"{plural(len(plan.counts), 'class', 'es')} ({classes}{more}), in {name}",
    )
    if "image_size" not in init:
        largest = int(train.truth.sizes.max())
        init["image_size"] = min(LARGEST, -(-largest // STEP) * STEP)
        plan.lines.append(
            f"images (up to {largest} pixels) are resized to fit squares of {init['image_size']}: --set data.image_size=N"
        )
    return plan
