"""Boxes of objects of many images, stored compactly, and the checks that they pass before."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural

INSIDE = 0.02
"""Share of an image's side by which a box may leave it without counting as of another format"""
ENOUGH = 4
"""Smallest number of boxes from which their format is judged"""
ROUNDED = 0.01
"""Pixels by which a box may leave its image without being counted, as shares of a side are rounded"""
MANY = 20
"""Smallest number of boxes from which it is said that all fit as corners too: of small objects some do not"""
FORMATS = ("xywh", "xyxy")


class Box(NamedTuple):
    """A box as a file has it: left, top, right, bottom in pixels of the upright image."""

    left: float
    top: float
    right: float
    bottom: float
    label: str
    ignored: bool = False
    """Whether it is of a crowd, or difficult"""


@dataclass
class Boxes:
    """Boxes of all images, one array each."""

    offsets: np.ndarray
    """`[N + 1]` int64: image n has the boxes from offsets[n] to offsets[n + 1]"""
    corners: np.ndarray
    """`[M, 4]` float64: left, top, right, bottom"""
    labels: np.ndarray
    """`[M]` int32"""
    ignored: np.ndarray
    """`[M]` bool"""
    sizes: np.ndarray
    """`[N, 2]` int32: height and width of the images, in pixels"""

    def of(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Corners, labels and `ignored` of an image."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        return self.corners[part], self.labels[part], self.ignored[part]

    def digest(self) -> bytes:
        """Hash of all boxes."""
        digest = sha256()
        for held in (self.offsets, self.corners, self.labels, self.ignored, self.sizes):
            digest.update(np.ascontiguousarray(held).tobytes())
        return digest.digest()

    @staticmethod
    def stored(images: Sequence[Sequence[Box]], sizes: Sequence[tuple[int, int]], labels: Sequence[str]) -> "Boxes":
        """Stores the boxes of each image. All labels must be known."""
        number = {label: at for at, label in enumerate(labels)}
        every = [box for boxes in images for box in boxes]
        return Boxes(
            np.cumsum([0, *(len(boxes) for boxes in images)]).astype(np.int64),
            np.array([box[:4] for box in every], dtype=np.float64).reshape(-1, 4),
            np.array([number[box.label] for box in every], dtype=np.int32),
            np.array([box.ignored for box in every], dtype=bool),
            np.array(sizes, dtype=np.int32).reshape(-1, 2),
        )


@dataclass
class Left:
    """What was left out or changed in reading boxes."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, where: str) -> None:
        """Counts one box or image."""
        self.counts[what] += 1
        self.first.setdefault(what, where)

    def lines(self) -> list[str]:
        """One line for each kind, as `left out 2 boxes of no area (first: a.jpg)`."""
        return [f"{counted(what, count)} (first: {self.first[what]})" for what, count in self.counts.items()]


def counted(what: str, count: int) -> str:
    """`left out # box(es)` with a number in the place of # and the right ending."""
    return what.replace("#", f"{count:,}").replace("(es)", "" if count == 1 else "es")


def checked(boxes: Iterable[Box], size: tuple[int, int], where: str, left: Left) -> list[Box]:
    """Boxes clipped to an image of a size (height, width); those of no area or outside it are left out, and counted.

    Raises UserError for numbers that are not finite.
    """
    (height, width), kept = size, []
    for box in boxes:
        corners = box[:4]
        if not all(map(np.isfinite, corners)):
            raise UserError(
                "data", f"{where} has a box {list(corners)}, which is not four finite numbers", "correct it"
            )
        if box.right <= box.left or box.bottom <= box.top:
            left.note("left out # box(es) of no area", where)
            continue
        if box.right <= 0 or box.bottom <= 0 or box.left >= width or box.top >= height:
            left.note("left out # box(es) outside the image", where)
            continue
        inside = max(0.0, box.left), max(0.0, box.top), min(float(width), box.right), min(float(height), box.bottom)
        if max(abs(a - b) for a, b in zip(inside, corners, strict=True)) > ROUNDED:
            left.note("clipped # box(es) to the image", where)
        kept.append(Box(*inside, box.label, box.ignored))
    return kept


def check_format(raw: np.ndarray, sizes: np.ndarray, given: str, fix: str) -> list[str]:
    """Raises UserError if boxes look as if they were of the other format. Returns a remark if they may be of either.

    Args:
        raw: `[M, 4]` numbers as they are in the file.
        sizes: `[M, 2]` height and width of each box's image.
        given: What they are taken for, 'xywh' (left, top, width, height) or 'xyxy' (left, top, right, bottom).
        fix: How to say the format.
    """
    if len(raw) < ENOUGH:
        return []
    most = sizes[:, ::-1] * (1 + INSIDE)
    fits = {
        "xywh": (raw[:, :2] + raw[:, 2:] <= most).all(1) & (raw[:, 2:] > 0).all(1),
        "xyxy": (raw[:, 2:] <= most).all(1) & (raw[:, 2:] > raw[:, :2]).all(1),
    }
    other = FORMATS[given == "xywh"]
    if fits[given].mean() < 0.5 and fits[other].mean() > 0.95:
        wrong, right = int((~fits[given]).sum()), fits[other].mean()
        raise UserError(
            "data",
            f"{plural(wrong, 'box', 'es')} of {len(raw):,} leave their image or have no area if numbers are "
            f"{said(given)}, but {right:.0%} fit as {said(other)}".replace("%", " %"),
            fix.format(other),
        )
    if given == FORMATS[0] and len(raw) >= MANY and fits[other].all():
        return [
            f"boxes are taken as {said(given)}, but all would fit as {said(other)} too: {fix.format(other)} if they are"
        ]
    return []


def said(form: str) -> str:
    """A format in words."""
    return "left, top, width, height" if form == "xywh" else "left, top, right, bottom"


def as_corners(numbers: Sequence[float], form: str) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of four numbers in a format."""
    a, b, c, d = (float(v) for v in numbers)
    return (a, b, a + c, b + d) if form == "xywh" else (a, b, c, d)
