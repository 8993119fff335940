"""Training augmentation: every random choice is a function of (seed, epoch, row), never of a worker's random stream."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def hashed_uniform(seed: int, epoch: int, rows: np.ndarray, stream: int) -> np.ndarray:
    """Numbers in [0, 1), one per row, that depend on (seed, epoch, row, stream) alone (SplitMix64's finaliser)."""
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) + np.uint64(1)
        for salt in (seed, epoch, stream):
            z = (z + np.uint64(salt & 0xFFFFFFFF)) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
    uniform: np.ndarray = (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return uniform


def shifted(image: Tensor, offset: Tensor, padding: int) -> Tensor:
    """Crops `[B, C, H, W]`, zero-padded on all sides, at `offset[2, B]` in [0, 2·padding]: one gather for the batch."""
    batch, _, height, width = image.shape
    padded = F.pad(image, (padding,) * 4)
    ys = offset[0][:, None] + torch.arange(height, device=image.device)
    xs = offset[1][:, None] + torch.arange(width, device=image.device)
    at = torch.arange(batch, device=image.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[at, ys[:, :, None], xs[:, None, :]].permute(0, 3, 1, 2)
