"""Corruptions of images, the same for each sample in each run.

They follow the recipes of ImageNet-C and CIFAR-10-C (D. Hendrycks and T. Dietterich, Benchmarking neural network robustness to
common corruptions and perturbations, 2019). Legend: B images, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sft_lightning.core.errors import UserError

SMALL = 64
"""Images of at most this height and width take CIFAR-10-C's settings, larger ones ImageNet-C's"""
SETTINGS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "noise": (
        (0.04, 0.06, 0.08, 0.09, 0.10),
        (0.08, 0.12, 0.18, 0.26, 0.38),
    ),  # standard deviation, of values from 0 to 1
    "blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),  # standard deviation in pixels
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),  # factor
    "jpeg": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),  # quality
}
"""Strengths of severity 1 to 5: of small images, and of others"""
REACH = 4.0
"""Standard deviations after which the blur's kernel ends"""


def noise(images: Tensor, strength: float, rows: Sequence[int]) -> Tensor:
    """Adds Gaussian noise to values from 0 to 1. A sample's noise depends on its row alone."""
    drawn = [np.random.default_rng(row).standard_normal(images.shape[1:]) for row in rows]
    added = torch.from_numpy(np.stack(drawn)).to(images.device, images.dtype)
    return images + strength * added


def blur(images: Tensor, strength: float, rows: Sequence[int]) -> Tensor:
    """Convolves with a Gaussian; the border is repeated."""
    radius = int(REACH * strength + 0.5)
    at = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (at / strength) ** 2)
    kernel = kernel / kernel.sum()
    padded = F.pad(images.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
    across = F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))
    return across.view(images.shape)


def contrast(images: Tensor, strength: float, rows: Sequence[int]) -> Tensor:
    """Moves each channel's values towards their mean over the image."""
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * strength + mean


def jpeg(images: Tensor, strength: float, rows: Sequence[int]) -> Tensor:
    """Encodes and decodes at a quality from 1 to 100. Images must have one channel or three."""
    from torchvision.io import decode_jpeg, encode_jpeg

    bytes_of = (images * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    decoded = torch.stack([decode_jpeg(encode_jpeg(one, quality=int(strength))) for one in bytes_of])
    return decoded.to(images.device, images.dtype) / 255


CORRUPTIONS: dict[str, Callable[[Tensor, float, Sequence[int]], Tensor]] = {
    "noise": noise,
    "blur": blur,
    "contrast": contrast,
    "jpeg": jpeg,
}


def corrupt(images: Tensor, how: str, severity: int, rows: Sequence[int]) -> Tensor:
    """Corrupted images `[B, C, H, W]` of uint8.

    Args:
        images: `[B, C, H, W]` of uint8.
        how: A name of CORRUPTIONS.
        severity: From 1 to 5.
        rows: `[B]` row numbers, which identify samples.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise UserError("data", "has no images of 8 bits, which a corruption needs", "leave the corruption out")
    if how == "jpeg" and images.shape[1] not in (1, 3):
        raise UserError(
            "data", f"has images of {images.shape[1]} channels, and jpeg takes 1 or 3", "choose another corruption"
        )
    strength = SETTINGS[how][max(images.shape[2:]) > SMALL][severity - 1]
    made = CORRUPTIONS[how](images.to(torch.float32) / 255, strength, rows)
    if not math.isfinite(float(made.sum())):
        raise ValueError(f"{how} made values that are not finite")
    return (made.clamp(0, 1) * 255).round().to(torch.uint8)
