"""What is found in an image, small enough to be kept for every image of a split: classes of pixels, or boxes of objects."""

import zlib
from typing import NamedTuple

import numpy as np

SIDE = 160
"""Largest height and width, in pixels, at which classes of pixels are kept and pictures are drawn"""


class Regions(NamedTuple):
    """A class for each pixel of an image as the network saw it, reduced to fit into SIDE × SIDE."""

    packed: bytes
    height: int
    width: int
    seen: tuple[int, int]
    """Height and width of the network's input, in pixels; it may be filled up below and to the right"""

    @staticmethod
    def of(classes: np.ndarray, seen: tuple[int, int]) -> "Regions":
        """Packs class numbers `[h, w]` in [0, 255]; 255 is no label."""
        height, width = classes.shape
        return Regions(zlib.compress(classes.astype(np.uint8).tobytes(), 1), height, width, seen)

    @property
    def classes(self) -> np.ndarray:
        """uint8 `[h, w]`."""
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.height, self.width)


class Outlines(NamedTuple):
    """Boxes of objects in an image file."""

    boxes: np.ndarray
    """`[M, 4]` left, top, right, bottom, as shares of the file's width and height"""
    classes: np.ndarray
    """`[M]` class numbers"""
    scores: np.ndarray | None = None
    """`[M]` in [0, 1]; None for true boxes"""


Pictured = Regions | Outlines


def reduced(height: int, width: int, side: int = SIDE) -> tuple[int, int]:
    """Height and width of an image that is reduced to fit into side × side; a smaller one keeps its size."""
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
