"""Colours of classes, as in Pascal VOC's masks, and pictures of masks in them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def palette(colours: int = 256) -> list[int]:
    """Pascal VOC's palette: red, green and blue of each class in turn; class 0 is black."""
    found = []
    for number in range(colours):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
        found += channels
    return found


def palette_image(mask: np.ndarray) -> Image.Image:
    """A mask `[H, W]` of class numbers below 256 as an image whose pixels are these numbers, shown in the palette's colours."""
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(palette())
    return image


def overlay_of(image: Tensor, mask: Image.Image) -> Image.Image:
    """An image, uint8 `[C, H, W]`, half covered by the colours of a mask of its size; class 0 is left clear."""
    pixels = (image if image.shape[0] == 3 else image[:1].repeat(3, 1, 1)).permute(1, 2, 0).contiguous()
    colours = torch.from_numpy(np.array(mask.convert("RGB")))
    shown = torch.from_numpy(np.array(mask))[..., None] > 0
    mixed = torch.where(shown, (pixels.int() + colours.int()) // 2, pixels.int())
    return Image.fromarray(mixed.to(torch.uint8).numpy())
