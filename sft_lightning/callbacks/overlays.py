"""Draws what is found in images over them: small pictures for pages and tables, and W&B's own overlays."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.pictured import SIDE, Outlines, Pictured, Regions, reduced
from sft_lightning.data.base import Samples
from sft_lightning.data.vision.base import Images
from sft_lightning.data.vision.box_overlay import outlined
from sft_lightning.data.vision.palette import overlay_of, palette, palette_image
from sft_lightning.data.vision.windowed import Windowed
from sft_lightning.tasks.region_scores import UNLABELLED

QUALITY = 60
"""Of a picture's JPEG"""
MOST_COLOURS = 20
"""Largest number of classes whose colours are listed beside a picture"""
NAMES = {"truth": "true", "before": "before", "after": "after"}
"""What pictures of a sample show, and what a column of W&B's table is called"""


def overlays(samples: Samples, row: int, found: Mapping[str, Pictured | None], labels: Sequence[str]) -> dict[str, Any]:
    """`pictures`, for each name in `found` the image with what is found drawn over it, a JPEG of at most SIDE pixels as data
    URI; and `colours`, a pair of name and colour for each class that is drawn. Empty if nothing is found in images.
    """
    there = {name: of for name, of in found.items() if of is not None}
    if not there or not isinstance(samples, Images):
        return {}
    try:
        image = samples.read(row)
    except (UserError, OSError):  # the file was readable before, and no longer is
        return {}
    uris = {name: jpeg_uri(over(samples, image, of)) for name, of in there.items()}
    return {"pictures": uris, "colours": legend(list(there.values()), labels)}


def over(samples: Images, image: Tensor, found: Pictured) -> Image.Image:
    """An image uint8 `[C, H, W]`, reduced to SIDE pixels, with what is found in it."""
    small = thumbnail(image)
    if isinstance(found, Outlines):
        return outlined(small, found)
    classes = found.classes
    if isinstance(samples, Windowed):
        down, across = samples.filled(found.seen, (image.shape[-2], image.shape[-1]))
        classes = classes[: max(1, round(down * found.height)), : max(1, round(across * found.width))]
    mask = palette_image(np.where(classes == UNLABELLED, 0, classes))
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)
    return overlay_of(pixels, mask.resize(small.size, Image.Resampling.NEAREST))


def thumbnail(image: Tensor) -> Image.Image:
    """An image uint8 `[C, H, W]` in RGB, reduced to fit into SIDE × SIDE."""
    pixels = image if image.shape[0] == 3 else image[:1].expand(3, -1, -1)
    whole = Image.fromarray(pixels.cpu().permute(1, 2, 0).contiguous().numpy())
    height, width = reduced(*image.shape[-2:])
    return whole if whole.size == (width, height) else whole.resize((width, height), Image.Resampling.BILINEAR)


def legend(found: Sequence[Pictured], labels: Sequence[str]) -> list[list[str]]:
    """Name and colour (`#800000`) of the classes that pictures show, in class order, at most MOST_COLOURS."""
    listed = dict[int, str]()
    for of in found:
        first = int(isinstance(of, Outlines))  # boxes of class 0 are drawn, regions of class 0 are left clear
        for number in np.unique(of.classes).astype(int).tolist():
            if first or 0 < number < UNLABELLED:
                red, green, blue = palette(number + first + 1)[-3:]
                listed[number] = f"#{red:02x}{green:02x}{blue:02x}"
    numbers = sorted(listed)[:MOST_COLOURS]
    return [[labels[n] if n < len(labels) else str(n), listed[n]] for n in numbers]


def jpeg_uri(picture: Image.Image) -> str:
    """A picture as a data URI, without halving the resolution of its colours."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def picture_of(uri: str) -> Image.Image:
    """The picture of `jpeg_uri`."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


# ---- W&B's own overlays ----


def wandb_image(pixels: np.ndarray, said: Pictured, truth: Pictured | None, labels: Sequence[str], caption: str) -> Any:
    """W&B's image of pixels uint8 `[H, W]` or `[H, W, 3]`, with the masks or boxes `prediction` and, if it is known, `truth`,
    which W&B's page shows and hides. Masks have the image's size.
    """
    import wandb

    named = {"truth": truth, "prediction": said}
    both = {name: of for name, of in named.items() if of is not None}
    picture = Image.fromarray(pixels)
    if isinstance(said, Regions):
        picture = picture.resize((said.width, said.height), Image.Resampling.BILINEAR)
        names = {**dict(enumerate(labels)), UNLABELLED: "no label"}
        masks = {n: {"mask_data": of.classes, "class_labels": names} for n, of in both.items()}
        return wandb.Image(picture, caption=caption, masks=masks)
    boxes = {n: {"box_data": box_data(of, labels), "class_labels": dict(enumerate(labels))} for n, of in both.items()}
    picture.thumbnail((2 * SIDE, 2 * SIDE))
    return wandb.Image(picture, caption=caption, boxes=boxes)


def box_data(found: Pictured, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Boxes as W&B has them: shares of width and height, class number, caption and score."""
    assert isinstance(found, Outlines)
    scores = [None] * len(found.classes) if found.scores is None else found.scores.tolist()
    listed = []
    for (left, top, right, bottom), number, score in zip(
        found.boxes.tolist(), found.classes.tolist(), scores, strict=True
    ):
        box = {
            "position": {"minX": left, "maxX": right, "minY": top, "maxY": bottom},
            "class_id": int(number),
            "box_caption": labels[int(number)] if score is None else f"{labels[int(number)]} {score:.2f}",
        }
        listed.append(box if score is None else {**box, "scores": {"score": score}})
    return listed
