"""Images that a network sees in windows: padded so that windows fit, and cut at random to one window in training."""

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.data.vision.augment import hashed_uniform
from sft_lightning.data.vision.images import Images

STEP = 32
"""Pixels that sides of images seen in windows are a multiple of, as networks' maps have up to 32 pixels a place"""


class Windowed(Images):
    """Images that may be larger than the window in which a network sees them. Without a window they are as other images."""

    window: int | None = None
    """Height and width of the windows; None for whole images"""

    def set_window(self, window: int | None) -> None:
        """Sets the windows' size. Images are then padded below and to the right, up to a multiple of STEP pixels."""
        if window != self.window:
            self.window, self._kept = window, None

    def padded(self, pixels: Tensor, fill: int) -> Tensor:
        """`[…, H, W]`, to which windows fit; as it is without windows."""
        if self.window is None:
            return pixels
        below, beside = (max(self.window, -(-side // STEP) * STEP) - side for side in pixels.shape[-2:])
        return F.pad(pixels, (0, beside, 0, below), value=fill)

    def unpadded(self, mask: np.ndarray, image: Sequence[int]) -> np.ndarray:
        """The part `[h, w]` of a predicted mask `[H, W]` that an image of a size (height, width) fills."""
        height, width = mask.shape if self.window is None else self.size or image
        return mask[:height, :width]

    def filled(self, seen: tuple[int, int], image: tuple[int, int]) -> tuple[float, float]:
        """Shares of the height and width of the network's input that an image of a size (height, width) fills."""
        height, width = seen if self.window is None else self.size or image
        return min(1.0, height / seen[0]), min(1.0, width / seen[1])

    def view(self, row: int) -> Tensor:
        return self.padded(super().view(row), 0)

    @property
    def one_size(self) -> bool:
        """Whether the views of all images have the same size, as far as is known."""
        return True

    def keep(self) -> None:
        """Makes room for all views, unless their sizes differ."""
        if self.window is None or self.one_size:
            super().keep()

    def check_shape(self, row: int, image: Tensor, other: int, first: Tensor) -> None:
        try:
            super().check_shape(row, image, other, first)
        except UserError as error:
            if self.window is None:
                raise
            fix = "set data.init_args.eval_batch_size 1, or data.init_args.image_size"
            raise UserError(error.key, error.problem, fix) from None

    def corner(self, row: int, epoch: int, size: Sequence[int]) -> tuple[int, int]:
        """Top and left of the window that training takes of an image of a size (height, width), anywhere in it."""
        assert self.window is not None
        top, left = (
            int(hashed_uniform(self.seed, epoch, np.array([row]), stream)[0] * (max(0, side - self.window) + 1))
            for stream, side in zip((5, 6), size, strict=True)
        )
        return top, left
