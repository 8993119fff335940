"""Object detection: images with boxes of objects, as a data module."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os.path import isfile
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import Batch, InputSpec, InputView
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import Range, check_arguments
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.base import LARGEST_SIDE, ImageData
from sft_lightning.data.vision.boxed import Boxed, BoxedFiles, BoxedRows, only_filled, size_of_file
from sft_lightning.data.vision.boxes import Box, Boxes, Left, checked
from sft_lightning.data.vision.encoded import DAMAGE
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.data.vision.walk import SUFFIXES, LeftOut, images_below
from sft_lightning.tasks.object_detection import COMPARED

SIDE, STEP = 512, 32
"""Pixels of the square's sides if neither network nor user say it, and what sides are multiples of"""


@dataclass
class Pictured:
    """An image as a file of annotations has it."""

    path: Path
    size: tuple[int, int] | None
    """Height and width in pixels; None if the file of annotations does not say"""
    boxes: list[Box] = field(default_factory=list)
    in_table: bool = False
    """Whether it is in a column of a table, and the path only its name"""
    refused: str = ""
    """Why it cannot be used; empty if it can"""


class DetectionData(ImageData, base=True):
    """Images with boxes of objects.

    Whole images are resized so that their longer side is `image_size`, and lie at the top left of a square of this size, so
    that no image depends on those beside it in a batch. Metrics and predictions are in pixels of the files. Boxes are clipped
    to their image; those outside it or of no area are left out, and all is counted. Boxes of crowds and difficult ones are not
    trained on, and detections on them are neither right nor wrong.

    Args:
        labels: Classes that count, in this order: boxes of others are left out and counted, their images stay; default all.
        image_size: Height and width the network sees, in pixels, a multiple of 32; default the network's own, else 512.
        augment: What varies between epochs: crop (half of the images: a part of at least min_crop of both sides), flip
            (left-right), flip_vertical.
        min_crop: Smallest share of an image's sides that a crop leaves.
        min_visible: A crop drops boxes of which it leaves less than this share of the area, and clips others.
        predict_root: Folder of images, or one image, for predict.
        overlays: Also draw predicted boxes over their images.
        **kwargs: Subset, split, batches; see Digits.
    """

    task_name = "object_detection"

    def __init__(
        self,
        labels: list[str] | None = None,
        image_size: Annotated[int, Range(STEP, LARGEST_SIDE)] | None = None,
        augment: list[Literal["crop", "flip", "flip_vertical"]] | None = None,
        min_crop: Annotated[float, Range(0, 1, open_below=True)] | None = None,
        min_visible: Annotated[float, Range(0, 1)] | None = None,
        predict_root: str | None = None,
        overlays: bool = False,
        **kwargs: Any,
    ) -> None:
        check_arguments(DetectionData.__init__, locals())
        super().__init__(image_size=image_size, **kwargs)
        self.labels, self.moves, self.predict_root, self.overlays = labels, list(augment or []), predict_root, overlays
        for name, value in (("min_crop", min_crop), ("min_visible", min_visible)):
            if value is not None and "crop" not in self.moves:
                raise UserError(
                    f"data.{name}", "has no effect without crop in data.augment", "add crop, or leave it out"
                )
        self.min_crop = 0.5 if min_crop is None else min_crop
        self.min_visible = 0.3 if min_visible is None else min_visible
        if image_size is not None and image_size % STEP:
            raise UserError("data.image_size", f"must be a multiple of {STEP} pixels, got {image_size}")
        if labels is not None and (not labels or len(set(labels)) < len(labels)):
            raise UserError("data.labels", f"must be different names, at least one, got {labels!r:.80}")
        if self.classes is not None:
            raise UserError(
                "data.classes", "does not work with boxes, of which an image has several", "use data.labels"
            )

    # ---- loading ----

    def boxed(
        self,
        found: Mapping[str, Sequence[Pictured]],
        names: Sequence[str],
        notes: list[str],
        make: Callable[[str, Boxes, list[str]], BoxedRows],
    ) -> Splits:
        """The samples of the splits `train`, and `val` and `test` if they are there.

        Args:
            found: The images of each split.
            names: All classes of the data, in order.
            notes: What reading left out so far.
            make: Makes a split's samples of its name, the boxes and the classes.
        """
        labels = list(self.labels or names)
        for label in labels:
            if label not in names:
                raise UserError("data.labels", f"no box has the label '{label}'{nearest(label, names)}")
        left, splits = Left(), dict[str, BoxedRows]()
        for split, images in found.items():
            boxes, sizes, refused = list[list[Box]](), list[tuple[int, int]](), dict[int, str]()
            for row, image in enumerate(images):
                size, why = self.sized(image)
                if why:
                    refused[row] = why
                sizes.append(size)
                boxes.append([] if why else self.kept(image, size, labels, left))
            samples = make(split, Boxes.stored(boxes, sizes, labels), labels)
            samples.refused = refused
            if refused and not self.skips:
                raise BadSample.of(samples, refused)
            splits[split] = samples
        train = splits["train"].truth
        if train is None or not len(train.labels):
            raise UserError(
                "data", f"no training image has a box of {', '.join(labels)}", "choose other labels or data"
            )
        ignored = sum(int(samples.truth.ignored.sum()) for samples in splits.values() if samples.truth is not None)
        said = [*notes, *left.lines()]
        if ignored:
            said.append(f"{plural(ignored, 'box', 'es')} difficult or of crowds: neither trained on nor counted")
        return Splits(splits["train"], splits.get("val"), splits.get("test"), labels, said)

    def of_files(
        self, root: Path, found: Mapping[str, Sequence[Pictured]], names: Sequence[str], notes: list[str]
    ) -> Splits:
        """The same of files, whose names are given below `root`."""

        def make(split: str, truth: Boxes, labels: list[str]) -> BoxedRows:
            return BoxedFiles(root, [image.path for image in found[split]], truth, labels)

        return self.boxed(found, names, notes, make)

    def sized(self, image: Pictured) -> tuple[tuple[int, int], str]:
        """Height and width of an image, and why it cannot be used, empty if it can."""
        if image.refused:
            return (1, 1), image.refused
        if not image.in_table and not isfile(image.path):
            return (1, 1), "there is no such file"
        if image.size is not None:
            return image.size, ""
        try:
            return size_of_file(image.path), ""
        except DAMAGE:
            return (1, 1), "it is damaged, or not an image"

    def kept(self, image: Pictured, size: tuple[int, int], labels: Sequence[str], left: Left) -> list[Box]:
        """An image's boxes that count."""
        wanted = []
        for box in image.boxes:
            if box.label in labels:
                wanted.append(box)
            else:
                left.note("left out # box(es) of classes that data.labels does not name", image.path.name)
        return checked(wanted, size, image.path.name, left)

    def load_for_prediction(self) -> BoxedFiles | None:
        if self.predict_root is None:
            return None
        one, left_out = Path(self.predict_root).expanduser(), LeftOut()
        if one.is_file():
            return BoxedFiles(one.parent, [one], None)
        root = folder(self.predict_root, "predict_root")
        if not (paths := images_below(root, left_out)):
            raise UserError("data.predict_root", f"{root} has no images ({', '.join(SUFFIXES)})", "use another folder")
        samples = BoxedFiles(root, paths, None)
        samples.notes = left_out.lines()
        return samples

    # ---- meeting the network ----

    def prepare(self, spec: InputSpec) -> InputView:
        """Sets size, channels and normalisation: the network's if it has them, else the data's."""
        if spec.kind != "boxes":
            raise UserError(
                "network",
                f"{spec.network} does not detect objects, and {type(self).__name__} has images with boxes",
                "choose another network or other data",
            )
        for split in self.splits.values():
            samples = split.samples
            assert isinstance(samples, Boxed)
            samples.moves, samples.overlays = self.moves, self.overlays
            samples.least_crop, samples.least_visible = self.min_crop, self.min_visible
        return super().prepare(replace(spec, kind="image", view=None, size=spec.size or (SIDE, SIDE)))

    def device_transform(self, batch: Batch) -> Batch:
        """Normalises, and sets what no image fills to 0."""
        if batch["x"]["image"].dtype != torch.uint8:
            return batch
        batch = super().device_transform(batch)
        batch["x"]["image"] = only_filled(batch["x"]["image"], batch["x"]["size"])
        return batch

    def describe(self) -> str:
        size = self.view.size if self.view is not None else None
        counted = []
        for name, split in self.splits.items():
            samples = split.samples
            if isinstance(samples, Boxed) and samples.truth is not None:
                boxes = sum(len(samples.truth.of(row)[1]) for row in split.rows.tolist())
                counted.append(f"{boxes:,} in {name}")
        seen = f"whole images in squares of {size[0]} pixels" if size else ""
        places = f"networks are compared at up to {COMPARED} places of each" if "val" in self.splits else ""
        boxes_said = f"boxes: {', '.join(counted)}" if counted else ""
        return "; ".join(part for part in (super().describe(), boxes_said, seen, places) if part)
