"""The resize and crop that a library applies in evaluation, as plain values that exports carry.

Pillow resizes the pixels, so they equal those of timm's and torchvision's own transforms to the bit.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.errors import UserError

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters, by their number"""


@dataclass(frozen=True)
class ImageView:
    """Resizes to `resize` (the shorter side, or height and width), then takes `crop` (height, width) from the centre.

    A resized image that is smaller than the crop is padded with zeros.
    """

    resize: int | tuple[int, int]
    crop: tuple[int, int]
    resample: str = "bilinear"

    @property
    def size(self) -> tuple[int, int]:
        return self.crop

    def __call__(self, image: Tensor) -> Tensor:
        from PIL import Image
        from torchvision.transforms.v2.functional import center_crop

        height, width = image.shape[-2:]
        if isinstance(self.resize, int):
            short, long = self.resize, int(self.resize * max(height, width) / min(height, width))
            shape = (short, long) if height <= width else (long, short)
        else:
            shape = self.resize
        if shape != (height, width):
            pixels = Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())
            resized = np.array(pixels.resize((shape[1], shape[0]), RESAMPLE.index(self.resample)))
            image = torch.from_numpy(resized)[None] if resized.ndim == 2 else torch.from_numpy(resized).permute(2, 0, 1)
        cropped: Tensor = center_crop(image, list(self.crop))
        return cropped.contiguous()

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def __str__(self) -> str:
        sides = f"shorter side {self.resize}" if isinstance(self.resize, int) else "{}×{}".format(*self.resize)
        return f"resized to {sides} ({self.resample}), {self.crop[0]}×{self.crop[1]} from the centre"


def view_of(values: Any) -> ImageView | None:
    """The view in an export's config.json; None for null. Raises UserError for a damaged one."""
    if values is None:
        return None
    try:
        resize, crop = values["resize"], values["crop"]
        view = ImageView(resize if isinstance(resize, int) else tuple(resize), tuple(crop), values["resample"])
        sides = (view.resize,) if isinstance(view.resize, int) else view.resize
        fine = len(view.crop) == 2 and all(isinstance(n, int) and 1 <= n <= 1 << 14 for n in (*sides, *view.crop))
    except (KeyError, TypeError):
        fine = False
    if not fine or view.resample not in RESAMPLE:
        raise UserError(
            "network.pretrained",
            f"config.json is damaged at sft_lightning.input.view: it must have resize, crop and resample, got {values!r:.80}",
            "export the network again",
        )
    return view
