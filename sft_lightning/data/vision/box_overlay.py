"""Draws predicted boxes over their image."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from sft_lightning.core.pictured import Outlines
from sft_lightning.data.vision.palette import palette

MOST_WRITTEN = 10
"""Largest number of boxes in a small picture beside which their scores are written"""
LEAST = 0.3
"""Lowest score of a box that is drawn"""


def drawn(image: Tensor, prediction: dict[str, Any], labels: Sequence[str]) -> Image.Image:
    """An image uint8 `[C, H, W]` with the boxes of a prediction whose score is at least LEAST, each class in its colour."""
    pixels = image.expand(3, -1, -1) if image.shape[0] == 1 else image
    found = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    colours, pen = palette(len(labels) + 1), ImageDraw.Draw(found)
    line = max(1, round(max(found.size) / 300))
    for box, score, label in reversed(
        list(zip(prediction["boxes"], prediction["scores"], prediction["labels"], strict=True))
    ):
        if score < LEAST:
            continue
        number = 1 + (labels.index(label) if label in labels else 0)
        red, green, blue = colours[3 * number : 3 * number + 3]
        pen.rectangle(box, outline=(red, green, blue), width=line)
        pen.text((box[0] + line + 1, box[1] + line), f"{label} {score:.2f}", fill=(red, green, blue))
    return found


def outlined(picture: Image.Image, found: Outlines) -> Image.Image:
    """A picture of an image of any size with all boxes that are found in the image."""
    corners = found.boxes.clip(0, 1) * np.array(picture.size * 2)
    numbers = found.classes.astype(int).tolist()
    scores = [""] * len(numbers)
    if found.scores is not None and len(numbers) <= MOST_WRITTEN:
        scores = [f"{score:.2f}" for score in found.scores]
    pen, line = ImageDraw.Draw(picture), max(1, round(max(picture.size) / 150))
    for box, number, score in reversed(list(zip(corners.tolist(), numbers, scores, strict=True))):
        red, green, blue = palette(number + 2)[-3:]
        pen.rectangle(box, outline=(red, green, blue), width=line)
        pen.text((box[0] + line + 1, box[1] + line), score, fill=(red, green, blue))
    return picture
