"""A graph of images that takes pixels as they are stored, and normalises them itself."""

from typing import Any

import torch
from torch import Tensor, nn

from sft_lightning.core.structures import InputView


def scales(view: InputView, channels: int) -> tuple[Tensor, Tensor]:
    """Mean and std of pixels in [0, 1], in the order that the network sees: `[C, 1, 1]` each."""
    given = (view.mean or (0.0,) * channels, view.std or (1.0,) * channels)
    mean, std = (torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1) for values in given)
    return mean, std


class PixelGraph(nn.Module):
    """A graph of normalised images behind their normalisation.

    Args:
        graph: The graph, whose one input is images.
        view: How the network sees images.
        channels: Their number.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, graph: nn.Module, view: InputView, channels: int) -> None:
        super().__init__()
        self.behind, self.reverse = graph, view.reverse_channels
        mean, std = scales(view, channels)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, *tensors: Tensor) -> Any:
        """The graph's outputs for uint8 images `[B, C, H, W]`, red first: one tensor."""
        x = tensors[0].to(self.mean.dtype) / 255
        if self.reverse:
            x = x.flip(1)
        return self.behind((x - self.mean) / self.std)


def pixels_of(image: Tensor, view: InputView) -> Tensor:
    """The uint8 images, red first, of normalised ones `[B, C, H, W]`."""
    mean, std = scales(view, image.shape[1])
    pixels = ((image * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.flip(1) if view.reverse_channels else pixels
