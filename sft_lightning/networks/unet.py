"""UNet for segmentation: the small one of tutorials, and the decoder that other backbones use."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.small import SmallNetwork
from sft_lightning.networks.transforms import Transform

GROUPS = 8
"""Groups of a normalisation, at most"""


def convolved(before: int, after: int) -> list[nn.Module]:
    """A 3×3 convolution, GroupNorm and ReLU. GroupNorm does not depend on the other images of a batch."""
    groups = next(n for n in range(min(GROUPS, after), 0, -1) if after % n == 0)
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.GroupNorm(groups, after), nn.ReLU()]


class Decoder(nn.Module):
    """UNet's way up: enlarges a map to the next larger one's size, joins both and convolves, level by level.

    Args:
        channels: Channels of the maps, from the largest map to the smallest.
        widths: Channels of the result at each of these levels but the last.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        below = [*widths[1:], channels[-1]]  # what comes up from the level below
        blocks = [
            nn.Sequential(*convolved(up + skip, width))
            for up, skip, width in zip(below, channels[:-1], widths, strict=True)
        ]
        self.levels = nn.ModuleList(reversed(blocks))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """`[B, widths[0], h, w]` at the size of the largest of `maps`, which come from the largest to the smallest."""
        found = maps[-1]
        for level, skip in zip(self.levels, reversed(maps[:-1]), strict=True):
            larger = F.interpolate(found, skip.shape[-2:], mode="nearest")
            found = level(torch.cat([larger, skip], 1))
        return found


class _UNet(nn.Module):
    """The encoder of UNet: two convolutions at each level and a halving between levels, then the decoder."""

    def __init__(self, channels: int, widths: Sequence[int], dropout: float) -> None:
        super().__init__()
        befores = [channels, *widths[:-1]]
        self.levels = nn.ModuleList(
            nn.Sequential(*convolved(before, width), *convolved(width, width), nn.Dropout2d(dropout))
            for before, width in zip(befores, widths, strict=True)
        )
        self.decoder = Decoder(widths, widths[:-1])

    def forward(self, image: Tensor) -> Tensor:
        """`[B, H, W, widths[0]]`"""
        maps: list[Tensor] = []
        for level in self.levels:
            maps.append(level(F.max_pool2d(maps[-1], 2, ceil_mode=True) if maps else image))
        pixels: Tensor = self.decoder(maps).permute(0, 2, 3, 1).contiguous()
        return pixels


class UNet(SmallNetwork):
    """The UNet of Ronneberger et al. 2015 in small, with padding and GroupNorm, for images of any size.

    Its maps have the image's size. The head is one linear layer on each pixel's features (a 1×1 convolution).

    Args:
        task: What is predicted; given by the module.
        channels: Channels of the images: 3 for colour, 1 for grey.
        widths: Channels at each level, from the image's size downwards; each level halves height and width.
        dropout: Probability of dropping a channel after each level's convolutions.
        pretrained: Where weights come from: a run directory, an export folder, a state dict file; null for random ones.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    tasks = ("semantic_segmentation",)

    def __init__(
        self,
        task: TaskInfo,
        channels: int = 3,
        widths: Sequence[int] = (16, 32, 64, 128),
        dropout: float = 0.0,
        pretrained: str | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        self.channels, self.widths = channels, list(widths)
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise UserError("network.widths", f"must name at least two levels of at least 1 channel, got {self.widths}")
        encoder = _UNet(channels, self.widths, 0.0)
        set_dropout(encoder, dropout)
        self.start_from(pretrained, keep_source_head, encoder, self.widths[0])

    @property
    def input_spec(self) -> InputSpec:
        spec = self.image_spec(channels=self.channels)
        spec.kind = "masks"
        return spec

    def export_config(self) -> dict[str, object]:
        return {"channels": self.channels, "widths": self.widths}
