"""Object detection: finds the boxes of objects of C classes in images."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.anchors import bernoulli_kl, kl
from sft_lightning.core.box_reader import Proposes, RegionOutputs
from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.core.pictured import Outlines
from sft_lightning.core.structures import Batch, Items, Loss, Output, TaskInfo
from sft_lightning.tasks.base import Said, Task, TaskMetric, at_least_single
from sft_lightning.tasks.box_groups import BOX_GROUPS, OldAndNewBoxes
from sft_lightning.tasks.box_scores import NUMBER, OF_CLASS, SCORES, BoxScores, Picture, f1_of
from sft_lightning.tasks.partial import covered_rows

FIXED = 256
"""Parts of a pixel in which targets are given: as integers, half precision does not round them"""
SHOWN = 0.3
"""Lowest score of a detection that is said of a sample"""
COMPARED = 256
"""Largest number of places of an image at which student and teacher are compared in an evaluation"""
SOFTMAX = "softmax"
CERTAIN = -1e4
"""Class output that says there is no object, without any loss or gradient if there is none"""


def score(name: str) -> Callable[[TaskInfo], BoxScores]:
    """Makes the meter of one score."""
    return lambda info: BoxScores(info, [name])


class ObjectDetection(Task):
    """A head gives `[R, P, D]` for P places of R images, which `Output.reader` reads as A candidates for boxes.

    `y[R, M, 5]` int64 are left, top, right, bottom of M boxes in the network's image, in parts of 1/FIXED pixel, and their
    class; −1 fills rows. Boxes of crowds and difficult ones are not in `y`. An item is an image: the loss is the sum over
    images, its count R. An image's loss is normalised by its own boxes alone, as in training with one image a batch:
    torchvision's FCOS and SSD divide by the boxes of the whole batch instead, so that an image's weight would depend on the
    images beside it, and accumulation would change gradients. In an evaluation `beside` holds a `Picture` of each image.

    Student and teacher are compared at each image's places: features as a mean over places, outputs as a sum over candidates.
    A candidate's divergence is that of its classes (yes or no for each, or a softmax with no object), plus, times the
    teacher's probability of an object, ½‖Δ‖² of the box's outputs: the KL of normal distributions of variance 1. An evaluation
    compares at most COMPARED candidates of an image, drawn evenly, from an offset that depends on the row number alone.
    Networks that propose regions are compared at the teacher's best proposals, in training and in an evaluation.

    Metrics are pycocotools', in pixels of the files. A test also measures each class: `ap/CLASS`, with `boxes/CLASS` boxes.
    """

    name = "object_detection"
    one_item_per_sample = False
    compares_places = True
    metrics = {name: TaskMetric("max", SHARE, score(name)) for name in SCORES}
    default_metrics = SCORES

    @classmethod
    def metric_info(cls, name: str) -> MetricInfo | None:
        """Adds the average precision and the number of boxes of each class, and the scores of old and of new classes."""
        if name in BOX_GROUPS:
            return BOX_GROUPS[name]
        if name.startswith(NUMBER):
            return MetricInfo(name, None, "boxes")
        return MetricInfo(name, "max", SHARE) if name.startswith(OF_CLASS) else super().metric_info(name)

    @property
    def metric_names(self) -> list[str]:
        """Adds the scores of old and of new classes, if the network knew some classes before."""
        return [*super().metric_names, *(BOX_GROUPS if self.info.known else ())]

    def make_metrics(self, final: bool = False) -> dict[str, Metric]:
        """One meter for all scores, which keeps boxes once."""
        names = [name for name in self.metric_names if name not in BOX_GROUPS]
        for name in names:
            self._metric(name)  # refuses unknown names
        return {"boxes": (OldAndNewBoxes if self.info.known else BoxScores)(self.info, names, final)}

    # ---- what the task does with a batch ----

    def select(self, batch: Batch) -> Tensor | None:
        """The images that are not fillers."""
        return batch.get("real")

    def loss(self, output: Output, batch: Batch) -> Loss:
        count = int(batch["count"])
        if not count:
            return Loss(self.idle(output), 0)
        assert output.reader is not None
        logits = at_least_single(output.logits)
        return Loss(output.reader.losses(logits, targets(batch["y"], logits.dtype)).sum(), count)

    def loss_in_part(self, output: Output, batch: Batch, covered: Tensor, counts: Tensor) -> Tensor:
        """Classes that an image's annotation does not cover are in no loss: their outputs are taken as certain of no object."""
        if not int(batch["count"]):
            return self.idle(output)
        assert output.reader is not None
        rows = output.reader.rows(at_least_single(output.logits))
        unknown = ~torch.nn.functional.pad(covered, (0, rows.shape[-1] - covered.shape[1]), value=True)
        logits = rows.masked_fill(unknown[:, None], CERTAIN).reshape(output.logits.shape)
        losses = output.reader.losses(logits, targets(batch["y"], logits.dtype))
        return losses[counts].sum()

    def idle(self, output: Output) -> Tensor:
        """0, with a gradient of 0 for all layers, for a batch without images that count."""
        reader = output.reader
        return reader.idle(output.logits) if isinstance(reader, Proposes) else output.logits.sum() * 0.0

    def update(self, metric: Metric, output: Output, batch: Batch) -> None:
        """Detections of classes that an image's annotation does not cover are left out of the scores."""
        rows, covered = numbers(batch), covered_rows(batch)
        every = zip(rows, pictures(batch), detections(output, batch), strict=True)
        for at, (row, picture, found) in enumerate(every):
            counts = None if covered is None else covered[at].cpu().numpy()[found[2]]
            metric.update(row, picture, *found, counts)

    def decode(self, output: Output, batch: Batch) -> list[dict[str, Any]]:
        """For each image `boxes` (left, top, right, bottom in pixels of the file), `scores` and `labels`, the best first."""
        labels, found = self.labels, []
        for boxes, scores, classes in detections(output, batch):
            named = [labels[int(c)] for c in classes]
            rounded = [[round(v, 2) for v in box] for box in boxes.tolist()]
            found.append({"boxes": rounded, "scores": [round(s, 6) for s in scores.tolist()], "labels": named})
        return found

    @property
    def labels(self) -> list[str]:
        """Names of the classes, or their numbers."""
        return self.info.labels or [str(i) for i in range(self.info.num_outputs)]

    def said(self, output: Output, batch: Batch) -> list[Said] | None:
        """`2 cat, 1 dog`: how many objects of each class are found in an image, and how many there are. The score is F1 of the
        detections that are said, matched to true boxes at an IoU of one half.
        """
        if "beside" not in batch:
            return None
        said = []
        for picture, (boxes, scores, classes) in zip(pictures(batch), detections(output, batch), strict=True):
            right, score, truth, kept, size = None, None, None, scores >= SHOWN, [picture.width, picture.height] * 2
            if (
                "y" in batch
                and picture.boxes is not None
                and picture.labels is not None
                and picture.ignored is not None
            ):
                counted = ~picture.ignored
                right = self.counted(picture.labels[counted])
                score = f1_of(boxes[kept], classes[kept], picture)
                truth = Outlines(picture.boxes[counted] / size, picture.labels[counted])
            found = Outlines(boxes[kept] / size, classes[kept], scores[kept])
            said.append(Said(self.counted(classes[kept]), right, score, found=found, truth=truth))
        return said

    def counted(self, classes: np.ndarray) -> str:
        """Names of classes with their numbers, the most frequent first."""
        counts = np.bincount(classes.astype(int), minlength=len(self.labels)).tolist()
        most = sorted(zip(counts, self.labels, strict=False), key=lambda pair: -pair[0])
        return ", ".join(f"{count} {label}" for count, label in most if count) or "nothing"

    def items(self, output: Output, batch: Batch) -> Items:
        """The places of the images: all in training, some of each image in an evaluation."""
        assert output.reader is not None
        count, logits, source = int(batch["count"]), output.logits, output.source_logits
        features = output.pretrained_features
        if output.below_new is None:
            features = output.reader.places(features)
        if not count:  # a batch whose images do not count
            features, logits, source = features[:0], logits[:0], None if source is None else source[:0]
        rows = None if batch.get("train", False) else numbers(batch)
        below, outputs = spread(features, rows), self.spread(logits, output, rows)
        dtype = torch.promote_types(below.dtype, torch.float32)
        weights = below.new_full(below.shape[:1], count / max(1, len(below)), dtype=dtype)
        of_source = None if source is None else self.spread(source, output, rows)
        return Items(below, outputs, of_source, count, weights)

    def pair(self, student: Output, teacher: Output, batch: Batch) -> tuple[Items, Items]:
        """Networks that propose regions are compared at those of the teacher, which both look at in their own features."""
        mine, theirs = student.reader, teacher.reader
        if not (isinstance(mine, Proposes) and isinstance(theirs, Proposes) and int(batch["count"])):
            return super().pair(student, teacher, batch)
        proposed = theirs.own()
        return of_regions(mine.at(proposed.regions)), of_regions(proposed)

    def spread(self, logits: Tensor, output: Output, rows: list[int] | None) -> Tensor:
        """Candidates `[M, K + 4]` of a head's outputs."""
        assert output.reader is not None
        return spread(output.reader.rows(logits), rows)

    # ---- the meaning of a head's outputs ----

    @property
    def width(self) -> int:
        """Of a candidate: at least classes and a box."""
        return self.info.num_outputs + (self.info.scheme == SOFTMAX) + 4

    def parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Class outputs `[N, K]` and box outputs `[N, 4]`, or `[N, 4·C]` if each class has a box."""
        rows = at_least_single(rows)
        begin = self.info.num_outputs + 1 if self.info.scheme == SOFTMAX else rows.shape[1] - 4
        return rows[:, :begin], rows[:, begin:]

    def probable(self, rows: Tensor) -> Tensor:
        """`[N, C]`, each class's probability."""
        outputs, classes = self.parts(rows)[0], self.info.num_outputs
        every = outputs.softmax(-1) if self.info.scheme == SOFTMAX else outputs.sigmoid()
        return every[:, :classes]

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        """Whether both take a candidate for the same class, or both for none (below one half)."""
        said = []
        for rows in (one, other):
            best = self.probable(rows).max(-1)
            said.append(torch.where(best.values > 0.5, best.indices, -1))
        return (said[0] == said[1]).double()

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        (mine, my_box), (theirs, their_box) = self.parts(student), self.parts(teacher.detach())
        compare = kl if self.info.scheme == SOFTMAX else bernoulli_kl
        there = self.probable(teacher.detach())
        if my_box.shape[1] == 4:
            there = (there.sum(-1) if self.info.scheme == SOFTMAX else there.max(-1).values)[:, None]
        moved = (my_box - their_box).square()
        moved = moved.reshape(len(moved), moved.shape[1] // 4, 4).sum(-1)
        each: Tensor = compare(mine, theirs, temperature) + 0.5 * (there * moved).sum(-1)
        return each


def of_regions(found: RegionOutputs) -> Items:
    """The items of images at some regions: features as a mean over those of an image, outputs at all of them."""
    dtype = torch.promote_types(found.features.dtype, torch.float32)
    counts = torch.tensor([len(of) for of in found.regions], device=found.features.device)
    weights = counts.to(dtype).reciprocal().repeat_interleave(counts)
    return Items(found.features, found.logits, found.source_logits, len(counts), weights)


def targets(y: Tensor, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Boxes `[M, 4]` and classes `[M]` of each image, from `y[R, M, 5]`."""
    kept = [of[of[:, 4] >= 0] for of in y]
    return [(of[:, :4].to(dtype) / FIXED, of[:, 4]) for of in kept]


def numbers(batch: Batch) -> list[int]:
    """Row numbers of the images that are not fillers."""
    rows = list(batch.get("rows") or batch["index"].tolist())
    real = batch["real"].tolist() if "real" in batch else [True] * len(rows)
    return [row for row, counts in zip(rows, real, strict=True) if counts]


def pictures(batch: Batch) -> list[Picture]:
    """What is known of the images that are not fillers."""
    real = batch["real"].tolist() if "real" in batch else [True] * len(batch["beside"])
    return [picture for picture, counts in zip(batch["beside"], real, strict=True) if counts]


def detections(output: Output, batch: Batch) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Boxes `[M, 4]` in pixels of the file, scores `[M]` and classes `[M]` of each image that is not a filler. Those that lie
    outside the file, where the square is filled, are left out.
    """
    assert output.reader is not None
    found = []
    every = output.reader.detections(at_least_single(output.logits))
    for picture, (corners, scores, labels) in zip(pictures(batch), every, strict=True):
        boxes = picture.in_file(corners.cpu().numpy())
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        found.append((boxes[inside], scores.double().cpu().numpy()[inside], labels.cpu().numpy()[inside]))
    return found


def spread(places: Tensor, rows: list[int] | None) -> Tensor:
    """Places `[R, P, D]` as `[M, D]`: all, or, given the images' row numbers, up to COMPARED of each image."""
    number = places.shape[1]
    if rows is not None and number > COMPARED and len(places):
        picked = [pick(row, number).to(places.device) for row in rows]
        places = torch.stack([of[at] for of, at in zip(places, picked, strict=True)])
    return places.flatten(0, 1)


def pick(row: int, number: int) -> Tensor:
    """COMPARED of `number` places, spread evenly, from an offset that depends on the row number."""
    start = (row * 0x9E3779B1 % 2**32) / 2**32  # in [0, 1), spread evenly over rows
    return ((torch.arange(COMPARED, dtype=torch.float64) + start) * (number / COMPARED)).long()
