"""Scores of detections: pycocotools' average precision and recall over all images of a split."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from sft_lightning.core.structures import TaskInfo

SCORES = ("map", "map50", "map75", "mar100")
"""Names of the scores"""
OF_CLASS, NUMBER = "ap/", "boxes/"
"""Begin the names of a class's average precision, and of its number of true boxes"""
MOST = 100
"""Largest number of detections of an image that count, those with the highest scores"""
COLUMNS = 7
"""Numbers of a box in a state: image, class, score or whether it is ignored, left, top, right, bottom"""


class Picture(NamedTuple):
    """What is known of an image beside its pixels. Boxes are left, top, right, bottom in pixels of the upright file."""

    height: int
    """of the file, in pixels"""
    width: int
    scale: tuple[float, float]
    """Pixels of the network's image for one of the file, across and down"""
    boxes: np.ndarray | None = None
    """`[M, 4]` float64; None if they are unknown"""
    labels: np.ndarray | None = None
    """`[M]` class numbers"""
    ignored: np.ndarray | None = None
    """`[M]` whether a box is of a crowd or difficult: detections on it are neither right nor wrong"""

    def in_file(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of the network's image in pixels of the file, clipped to it."""
        found = boxes.astype(np.float64) / np.array([*self.scale, *self.scale])
        return np.asarray(found.clip(0, [self.width, self.height] * 2))


class BoxScores(Metric):
    """Average precision and recall by pycocotools, of all images of all ranks together, never a mean over batches.

    `map` is COCO's AP, the mean over IoU thresholds from 0.5 to 0.95 and over the classes that occur; `map50` and `map75` are
    those at one threshold; `mar100` is the mean recall with up to 100 detections an image. Ignored boxes count as crowds do in
    COCO: detections on them are left out, and missing them costs nothing. Images without boxes count, because detections on
    them are wrong. NaN without a true box.

    Args:
        info: The task, for the classes' names.
        names: Names of the scores, of SCORES.
        each_class: Also return `ap/CLASS` and `boxes/CLASS`, the number of true boxes, for each class that occurs.
    """

    full_state_update = False
    images: list[Tensor]
    said: list[Tensor]
    true: list[Tensor]

    def __init__(self, info: TaskInfo, names: Sequence[str] = SCORES, each_class: bool = False) -> None:
        super().__init__()
        self.labels = info.labels or [str(i) for i in range(info.num_outputs)]
        self.names, self.each_class = list(names), each_class
        for state in ("images", "said", "true"):
            self.add_state(state, [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Forgets all images. Parts are flat, so that those of a rank without images fit the others'."""
        super().reset()
        for parts in (self.images, self.said, self.true):
            parts.append(self.flat(np.zeros(0)))

    def flat(self, values: np.ndarray) -> Tensor:
        """As int64 that hold the bits of doubles, since neither MPS nor half precision would keep those."""
        bits = np.ascontiguousarray(values, dtype=np.float64).reshape(-1).view(np.int64)
        return torch.from_numpy(bits.copy()).to(self.device)

    def update(
        self,
        row: int,
        picture: Picture,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        counts: np.ndarray | None = None,
    ) -> None:
        """Adds an image: its row number, true boxes, and detections, `[M, 4]` in pixels of the file, `[M]` and `[M]`.

        `counts` says which of the detections count, `[M]`; None for all.
        """
        assert picture.boxes is not None and picture.labels is not None and picture.ignored is not None
        if counts is not None:
            boxes, scores, labels = boxes[counts], scores[counts], labels[counts]
        self.images.append(self.flat(np.array([row])))
        said = np.column_stack([np.full(len(labels), row), labels, scores, boxes.reshape(-1, 4)])
        true = np.column_stack([np.full(len(picture.labels), row), picture.labels, picture.ignored, picture.boxes])
        self.said.append(self.flat(said))
        self.true.append(self.flat(true))

    def compute(self) -> dict[str, Tensor]:
        images, said, true = (
            dim_zero_cat(part).cpu().numpy().view(np.float64) for part in (self.images, self.said, self.true)
        )
        found = evaluated(images, said.reshape(-1, COLUMNS), true.reshape(-1, COLUMNS), len(self.labels))
        values = self.values(found)
        return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in values.items()}

    def values(self, found: dict[str, Any]) -> dict[str, Any]:
        """The values to report, of those that `evaluated` returns."""
        values = {name: found[name] for name in self.names}
        if self.each_class:
            for number, label in enumerate(self.labels):
                if found["boxes"][number]:
                    values |= {OF_CLASS + label: found["ap"][number], NUMBER + label: found["boxes"][number]}
        return values


def evaluated(images: np.ndarray, said: np.ndarray, true: np.ndarray, classes: int) -> dict[str, Any]:
    """The scores; `ap` and `boxes` have one value for each class. The order of images, boxes and detections does not matter.

    Args:
        images: `[I]` row numbers.
        said: `[M, COLUMNS]` detections.
        true: `[M, COLUMNS]` true boxes.
        classes: Number of classes.
    """
    said = said[np.lexsort((*said[:, :0:-1].T, -said[:, 2], said[:, 0]))]
    counted = true[true[:, 2] == 0]
    numbers = np.bincount(counted[:, 1].astype(int), minlength=classes) if len(counted) else np.zeros(classes)
    if not len(counted):
        return {**dict.fromkeys(SCORES, float("nan")), "ap": [float("nan")] * classes, "boxes": numbers}
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        gold, answers = COCO(), COCO()
        categories = [{"id": number} for number in range(classes)]
        for coco, boxes in ((gold, true), (answers, said)):
            coco.dataset = {
                "images": [{"id": int(row)} for row in sorted(set(images.tolist()))],
                "categories": categories,
                "annotations": [annotation(number, box, coco is gold) for number, box in enumerate(boxes.tolist(), 1)],
            }
            coco.createIndex()
        evaluation = COCOeval(gold, answers, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., 0, 0], evaluation.eval["recall"][..., 0, 0]
    return {
        "map": mean(precision),
        "map50": mean(precision[0]),
        "map75": mean(precision[5]),
        "mar100": mean(recall),
        "ap": [mean(precision[:, :, number]) for number in range(classes)],
        "boxes": numbers,
    }


def annotation(number: int, box: Sequence[float], true: bool) -> dict[str, Any]:
    """A row of a state as COCO has it; the third number is a score, or whether a true box is ignored."""
    row, label, third, left, top, right, bottom = box
    size = [right - left, bottom - top]
    held: dict[str, Any] = {"id": number, "image_id": int(row), "category_id": int(label), "area": size[0] * size[1]}
    return {**held, "bbox": [left, top, *size], **({"iscrowd": int(third)} if true else {"score": third})}


def mean(values: np.ndarray) -> float:
    """Over what pycocotools does not mark as undefined with −1."""
    there = values[values > -1]
    return float(there.mean()) if there.size else float("nan")


def overlaps(boxes: np.ndarray, true: np.ndarray) -> np.ndarray:
    """IoU `[M, N]` of boxes `[M, 4]` and `[N, 4]`."""
    shared = np.minimum(boxes[:, None, 2:], true[None, :, 2:]) - np.maximum(boxes[:, None, :2], true[None, :, :2])
    inner = shared.clip(0).prod(-1)
    own, theirs = ((of[:, 2:] - of[:, :2]).prod(-1) for of in (boxes, true))
    return np.asarray(inner / np.maximum(own[:, None] + theirs[None] - inner, 1e-9))


def f1_of(boxes: np.ndarray, classes: np.ndarray, picture: Picture, least: float = 0.5) -> float:
    """F1 of an image's detections, best first: `boxes[M, 4]` and `classes[M]`; 1 if nothing is there and nothing is found.

    Each detection in turn takes the free true box of its class with the largest IoU of at least `least`. One that takes none
    and of whose area a share of at least `least` lies in an ignored box is left out, as in COCO.
    """
    assert picture.boxes is not None and picture.labels is not None and picture.ignored is not None
    left, right, counted = list(np.flatnonzero(~picture.ignored)), 0, len(boxes)
    total = len(left)
    for box, label in zip(boxes, classes, strict=True):
        shared = np.minimum(picture.boxes[:, 2:], box[2:]) - np.maximum(picture.boxes[:, :2], box[:2])
        shared = shared.clip(0).prod(1)
        own, true = (box[2:] - box[:2]).prod(), (picture.boxes[:, 2:] - picture.boxes[:, :2]).prod(1)
        overlap, alike = shared / np.maximum(own + true - shared, 1e-9), picture.labels == label
        best = max((at for at in left if alike[at]), key=lambda at: overlap[at], default=None)
        if best is not None and overlap[best] >= least:
            left.remove(best)
            right += 1
        elif (shared[alike & picture.ignored] >= least * own).any():
            counted -= 1
    return 2 * right / (counted + total) if counted + total else 1.0
