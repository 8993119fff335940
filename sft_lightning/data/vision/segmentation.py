"""Semantic segmentation: images with a mask each, as a data module."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, InputView
from sft_lightning.data.arguments import Range, check_arguments
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.base import LARGEST_SIDE, ImageData
from sft_lightning.data.vision.encoded import DAMAGE
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.data.vision.masked import Masked
from sft_lightning.data.vision.masked_rows import Encoded, MaskedFiles, MaskedRows
from sft_lightning.data.vision.masks import (
    MOST_CLASSES,
    PNG,
    UNLABELLED,
    MaskRule,
    UnknownValue,
    changed_by_jpeg,
    raw_values,
    rule_of_table,
    rule_of_values,
    values_in,
    with_note,
)
from sft_lightning.data.vision.walk import SUFFIXES, LeftOut, images_below
from sft_lightning.data.vision.windowed import STEP
from sft_lightning.tasks.semantic_segmentation import COMPARED

Pairs = list[tuple[Path, Path | None]]
"""Images with their masks"""
LOOKED_AT = 200
"""Training masks in which the values of a table are looked for"""


class SegmentationData(ImageData, base=True):
    """Images with a mask each, whose values are the classes of the image's pixels.

    Whole images are resized, bilinear, and masks with them, to the nearest; metrics are of this size unless `score_size` is
    mask. Nothing is cropped, but in training with `window`.

    Args:
        labels: Names of the classes, in the order of the masks' values; default their numbers.
        mask_values: Each class's value in masks, as `{background: 0, cell: 128}`, or its colour, as `{road: '#804080'}`;
            default values from 0 on, or 0 and 255 for two classes.
        ignore_index: Value of pixels without a label; default 255, unless masks have 0 and 255 alone.
        unknown_values: What a value is that no class has: an error (of the sample; see on_bad_sample), or no label.
        image_size: Height and width the network sees, in pixels; default the network's own, else that of the images, which
            must then be equal.
        window: See images in windows of this height and width, in pixels, a multiple of 32: training takes one window anywhere
            in each image; validation, test and predict pass windows over whole images, and average the outputs where they
            overlap. With image_size, images are resized first. Null for whole images at once.
        window_overlap: Share of a window that the next one overlaps, rounded to 32 pixels, but not to none; default 0.5.
        score_size: Where metrics compare: at the network's input size, to which masks are resized, or at each mask's own size,
            to which outputs are enlarged, bilinear, as the field's benchmarks do. Files of predicted masks have the image's
            size: with mask they are what metrics compare, else the network's classes, enlarged to the nearest.
        augment: What varies between epochs: crop (shift by up to crop_padding pixels), flip (left-right), flip_vertical.
        crop_padding: Largest shift of crop, in pixels, each way.
        class_weights: Weight of each class's pixels in the loss, in class order, or balanced: weights that give every class
            that occurs in the training masks the same share, and pixels a mean weight of 1; default 1 each.
        focal_gamma: Exponent γ of the focal loss, which weighs pixels down that are right already; 0 for cross-entropy.
        predict_root: Folder of images without masks, for predict.
        overlays: Also draw predicted masks over their images.
        **kwargs: Subset, split, batches; see Digits.
    """

    task_name = "semantic_segmentation"

    def __init__(
        self,
        labels: list[str] | None = None,
        mask_values: dict[str, Any] | None = None,
        ignore_index: int | None = None,
        unknown_values: Literal["fail", "ignore"] = "fail",
        image_size: Annotated[int, Range(1, LARGEST_SIDE)] | None = None,
        window: Annotated[int, Range(STEP, LARGEST_SIDE)] | None = None,
        window_overlap: Annotated[float, Range(0, 1, open_above=True)] | None = None,
        score_size: Literal["network", "mask"] = "network",
        augment: list[Literal["crop", "flip", "flip_vertical"]] | None = None,
        crop_padding: Annotated[int, Range(0, LARGEST_SIDE)] = 4,
        class_weights: list[float] | Literal["balanced"] | None = None,
        focal_gamma: Annotated[float, Range(0)] = 0.0,
        predict_root: str | None = None,
        overlays: bool = False,
        **kwargs: Any,
    ) -> None:
        check_arguments(SegmentationData.__init__, locals())
        super().__init__(image_size=image_size, crop_padding=crop_padding, **kwargs)
        self.score_size = score_size
        self.window = window_of(window, window_overlap, image_size)
        if score_size == "mask" and window is not None and image_size is None:
            raise own_size_anyway()
        self.labels, self.mask_values, self.ignore_index = labels, mask_values, ignore_index
        self.unknown_values, self.moves, self.predict_root = unknown_values, list(augment or []), predict_root
        self.overlays, self.class_weights, self.focal_gamma = overlays, class_weights, focal_gamma
        if isinstance(class_weights, str) and class_weights != "balanced":
            raise UserError("data.class_weights", f"must be a list of numbers, or balanced, got '{class_weights}'")
        if labels is not None and mask_values is not None:
            raise UserError("data.labels", "has no effect, because mask_values names the classes", "leave it out")
        if labels is not None and (len(labels) > MOST_CLASSES or len(set(labels)) < len(labels)):
            raise UserError("data.labels", f"must be at most {MOST_CLASSES} different names, got {labels!r:.80}")
        if self.classes is not None:
            raise UserError(
                "data.classes", "does not work with masks, which have a class for each pixel", "leave it out"
            )

    def _share_out(self, loaded: Splits) -> None:
        super()._share_out(loaded)
        assert self.task_info is not None
        self.task_info = replace(self.task_info, weights=self.weights(), focal=float(self.focal_gamma))

    def weights(self) -> list[float]:
        """Each class's weight in the loss; empty for 1 each."""
        assert self.task_info is not None
        given, classes = self.class_weights, self.task_info.num_outputs
        if given is None:
            return []
        if not isinstance(given, str):
            if len(given) != classes or not all(0 <= w < float("inf") for w in given) or not any(given):
                raise UserError(
                    "data.class_weights",
                    f"must be {classes} numbers of at least 0, not all 0, one for each class, got {given!r:.80}",
                )
            return [float(w) for w in given]
        pixels, train = np.zeros(classes), self.splits["train"]
        assert isinstance(train.samples, Masked)
        for row in train.rows.tolist():
            try:
                mask = train.samples.mask(row).numpy()
            except BadSample:
                continue  # fetching the sample will raise the error, or skip it
            pixels += np.bincount(mask[mask != UNLABELLED], minlength=classes)
        there = pixels > 0
        balanced = np.where(there, pixels.sum() / (max(1, there.sum()) * np.maximum(pixels, 1)), 1.0)
        return [float(w) for w in balanced]

    def load_for_prediction(self) -> MaskedFiles | None:
        if self.predict_root is None:
            return None
        root, left_out = folder(self.predict_root, "predict_root"), LeftOut()
        if not (paths := images_below(root, left_out)):
            raise UserError("data.predict_root", f"{root} has no images ({', '.join(SUFFIXES)})", "use another folder")
        samples = MaskedFiles(root, paths, None, None)
        samples.notes = left_out.lines()
        return samples

    def masked(self, root: Path, pairs: dict[str, Pairs], notes: list[str]) -> Splits:
        """The samples of the splits `train`, and `val` and `test` if they are there."""
        files = [mask for _, mask in pairs["train"] if mask is not None]
        rule = self.rule(files)
        found = {
            split: MaskedFiles(root, [image for image, _ in of], [mask for _, mask in of], rule)
            for split, of in pairs.items()
        }
        return self.checked(found, rule, notes)

    def checked(self, found: Mapping[str, MaskedRows], rule: MaskRule, notes: list[str]) -> Splits:
        """The splits of samples, whose images without mask are refused."""
        for samples in found.values():
            lacks = (row for row in range(len(samples)) if samples.encoded_mask(row) is None)
            samples.refused = dict.fromkeys(lacks, "it has no mask")
            if samples.refused and not self.skips:
                row = next(iter(samples.refused))
                raise samples.bad(row, samples.refused[row]).at("data")
        said = [*notes, rule.note] if rule.note else notes
        return Splits(found["train"], found.get("val"), found.get("test"), rule.labels, said)

    def rule(self, masks: Sequence[Encoded]) -> MaskRule:
        """The classes of masks' values: as the user names them, or by the values that training masks have."""
        if self.mask_values is not None:
            return self.rule_of_table(masks, self.mask_values)
        values: set[int] = set()
        both, jpeg = False, None
        for mask in masks:
            try:
                with mask.open("rb") as stream:
                    jpeg = jpeg or (mask if changed_by_jpeg(stream) else None)
                    found = values_in(raw_values(stream, colours=False))
                values, both = values | found, both or found >= {1, 255}
            except UnknownValue as error:
                if not self.skips:
                    raise UserError("data", f"{mask}: {error}", error.fix) from None
            except DAMAGE:
                continue  # reading the sample will raise the error, or skip it
        if jpeg is not None and values - {0, 255}:
            problem = (
                f"{jpeg} is a JPEG, whose compression changes the values of masks ({len(values)} of 0 to {max(values)})"
            )
            raise UserError("data", problem, f"{PNG}, or set data.mask_values and data.unknown_values ignore")
        if values == {0, 1, 255} and not both and self.ignore_index is None:
            raise UserError(
                "data",
                "some training masks have 1 and others 255, but none has both: 255 may be the same class as 1",
                "save all in one way, or set data.ignore_index 255 if 255 has no label",
            )
        return rule_of_values(values, self.labels, self.ignore_index, self.unknown_values)

    def rule_of_table(self, masks: Sequence[Encoded], table: dict[str, Any]) -> MaskRule:
        """The rule of `mask_values`, checked with LOOKED_AT masks, or more if these have one class."""
        rule, values, looked = rule_of_table(table, self.ignore_index, self.unknown_values), set[int](), 0
        for mask in masks:
            if looked >= LOOKED_AT and len({rule.values[v] for v in values & rule.values.keys()} - {UNLABELLED}) > 1:
                break
            looked += 1
            try:
                with mask.open("rb") as stream:
                    values |= values_in(raw_values(stream, rule.colours))
            except DAMAGE:
                continue  # reading the sample will raise the error, or skip it
        return with_note(rule, values, looked == len(masks))

    def prepare(self, spec: InputSpec) -> InputView:
        """Sets size, channels and normalisation: the network's if it has them, else the data's."""
        if spec.kind != "masks":
            raise UserError(
                "network",
                f"{spec.network} does not segment images, and {type(self).__name__} has images with masks",
                "choose another network or other data",
            )
        for split in self.splits.values():
            samples = split.samples
            assert isinstance(samples, Masked)
            samples.moves, samples.padding, samples.overlays = self.moves, self.crop_padding, self.overlays
            samples.set_window(None if self.window is None else self.window[0])
            samples.scores_own = self.score_size == "mask"
        if self.score_size == "mask" and self.image_size is None and spec.size is None:
            raise own_size_anyway()
        if self.window is None:
            return super().prepare(replace(spec, kind="image", view=None))
        view, side = super().prepare(replace(spec, kind="image", view=None, size=None)), self.window[0]
        shape = None if view.shape is None else (view.shape[0], side, side)
        return replace(view, shape=shape, window=self.window)

    def describe(self) -> str:
        size = self.view.size if self.view is not None else None
        seen = f"whole images at {size[0]}×{size[1]}" if size else ""
        if self.window is not None:
            side, step = self.window
            seen = f"{seen or 'images of their own size'}, in windows of {side}×{side}, one each {step} pixels"
        if self.score_size == "mask":
            seen += ", metrics at the masks' own size"
        places = f"networks are compared at up to {COMPARED} places with labels of each" if "val" in self.splits else ""
        return "; ".join(part for part in (super().describe(), seen, places) if part)


def own_size_anyway() -> UserError:
    """The error of `score_size` on images that are not resized."""
    problem = "has no effect on images that keep their own size: metrics are of this size anyway"
    return UserError("data.score_size", problem, "leave it out, or set data.image_size")


def window_of(window: int | None, overlap: float | None, image_size: int | None) -> tuple[int, int] | None:
    """Height and width of the windows, and pixels from one to the next; None without windows."""
    if window is None:
        if overlap is not None:
            raise UserError("data.window_overlap", "has no effect without data.window", "set both or none")
        return None
    if window % STEP:
        raise UserError("data.window", f"must be a multiple of {STEP} pixels, got {window}")
    if image_size is not None and image_size <= window:
        problem = (
            f"has no effect on images that data.image_size resizes to {image_size} pixels, as one window holds {window}"
        )
        raise UserError("data.window", problem, "set image_size higher, or leave one of them out")
    step = max(STEP, round(window * (1 - (0.5 if overlap is None else overlap)) / STEP) * STEP)
    if overlap and step >= window:  # rounding must not take all of an overlap that was asked for
        if window == STEP:
            problem = f"has no effect on windows of {STEP} pixels, as it is rounded to {STEP} pixels"
            raise UserError("data.window_overlap", problem, "set a larger data.window, or leave it out")
        step = window - STEP
    return window, step
