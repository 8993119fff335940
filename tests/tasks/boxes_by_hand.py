"""Object detection one image at a time: pycocotools' numbers of all images, and how two networks' candidates differ."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit

from sft_lightning.tasks.box_scores import Picture


@dataclass
class Detected:
    """What a head says of one image."""

    rows: np.ndarray
    """`[A, K + 4]` of the candidates"""
    boxes: np.ndarray
    """`[M, 4]` left, top, right, bottom in the network's image"""
    scores: np.ndarray
    labels: np.ndarray
    loss: float


def in_file(said: Detected, picture: Picture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes in pixels of the file, scores and labels, without what lies outside the file."""
    across, down = picture.scale
    found = said.boxes.astype(np.float64) / [across, down, across, down]
    found[:, [0, 2]] = found[:, [0, 2]].clip(0, picture.width)
    found[:, [1, 3]] = found[:, [1, 3]].clip(0, picture.height)
    there = (found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])
    return found[there], said.scores[there], said.labels[there]


def coco(pictures: Sequence[Picture], found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], classes: int) -> Any:
    """pycocotools' evaluation with its own settings, after `accumulate` and `summarize`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    gold, annotations, results = COCO(), list[dict[str, Any]](), list[dict[str, Any]]()
    for image, (picture, (boxes, scores, labels)) in enumerate(zip(pictures, found, strict=True)):
        for (x, y, r, b), label, crowd in zip(picture.boxes, picture.labels, picture.ignored, strict=True):
            box = {"bbox": [x, y, r - x, b - y], "area": (r - x) * (b - y), "iscrowd": int(crowd)}
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": int(label), **box})
        for (x, y, r, b), score, label in zip(boxes, scores, labels, strict=True):
            box = {"bbox": [x, y, r - x, b - y], "score": float(score)}
            results.append({"image_id": image, "category_id": int(label), **box})
    gold.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(pictures))],
        "categories": [{"id": label} for label in range(classes)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        gold.createIndex()
        evaluation = COCOeval(gold, gold.loadRes(results) if results else COCO(), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def scores(pictures: Sequence[Picture], found: Sequence[Any], classes: int) -> dict[str, float]:
    stats = coco(pictures, found, classes).stats
    values = {"map": stats[0], "map50": stats[1], "map75": stats[2], "mar100": stats[8]}
    return {name: float(value) if value > -1 else float("nan") for name, value in values.items()}


def measure(said: Sequence[Detected], pictures: Sequence[Picture], classes: int = 3) -> dict[str, float]:
    found = [in_file(one, p) for one, p in zip(said, pictures, strict=True)]
    return {"loss": float(np.mean([one.loss for one in said])), **scores(pictures, found, classes)}


def divergence(student: Detected, teacher: Detected, classes: int = 3) -> float:
    p, q = expit(teacher.rows[:, :-4]), expit(student.rows[:, :-4])
    of_classes = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
    moved = 0.5 * ((student.rows[:, -4:] - teacher.rows[:, -4:]) ** 2).sum(1)
    return float((of_classes + p[:, :classes].max(1) * moved).mean())


def agreement(student: Detected, teacher: Detected, classes: int = 3) -> float:
    best = []
    for said in (student, teacher):
        p = expit(said.rows[:, :classes])
        best.append(np.where(p.max(1) > 0.5, p.argmax(1), -1))
    return float((best[0] == best[1]).mean())


def answer(said: Detected, picture: Picture, labels: Sequence[str]) -> dict[str, Any]:
    boxes, scores, classes = in_file(said, picture)
    return {
        "boxes": boxes.tolist(),
        "scores": scores.tolist(),
        "labels": [labels[int(n)] for n in classes],
        "height": picture.height,
        "width": picture.width,
    }
