"""Joins the class outputs of a pretrained detector and fresh ones for new classes, for tuning; exports hold a plain layer."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from sft_lightning.networks.dense_detection import DenseHead


class JointConv(nn.Module):
    """The last convolution of classes: for each of a candidates S outputs that start as pretrained, then K fresh ones.

    Args:
        source: The pretrained convolution, a·S outputs.
        fresh: A fresh convolution of a·(S + K) outputs, of which each candidate's last K are taken.
        each: a.
    """

    def __init__(self, source: nn.Conv2d, fresh: nn.Conv2d, each: int) -> None:
        super().__init__()
        self.each, self.in_channels = each, source.in_channels
        self.old = deepcopy(source).requires_grad_(True)
        self.known = source.out_channels // each
        self.new = like(source, fresh.out_channels - source.out_channels)
        with torch.no_grad():
            for name in ("weight", "bias"):
                rows = getattr(fresh, name).unflatten(0, (each, -1))[:, self.known :].flatten(0, 1)
                getattr(self.new, name).copy_(rows)

    def forward(self, maps: Tensor) -> Tensor:
        """`[R, D, h, w]` to `[R, a·(S + K), h, w]`."""
        parts = [part(maps).unflatten(1, (self.each, -1)) for part in (self.old, self.new)]
        return torch.cat(parts, 2).flatten(1, 2)

    @torch.no_grad()
    def plain(self) -> nn.Conv2d:
        """One ordinary convolution with the same outputs."""
        layer = like(self.old, self.old.out_channels + self.new.out_channels).to(self.new.weight)
        for name in ("weight", "bias"):
            parts = [getattr(part, name).unflatten(0, (self.each, -1)) for part in (self.old, self.new)]
            getattr(layer, name).copy_(torch.cat(parts, 1).flatten(0, 1))
        return layer.train(self.training)


def like(layer: nn.Conv2d, outputs: int) -> nn.Conv2d:
    """A convolution to be filled, with another number of outputs. It draws no random numbers."""
    shape: dict[str, Any] = {n: getattr(layer, n) for n in ("kernel_size", "stride", "padding")}
    with torch.device("meta"):
        made = nn.Conv2d(layer.in_channels, outputs, bias=layer.bias is not None, **shape)
    return made.to_empty(device="cpu")


def can_join(head: nn.Module) -> bool:
    """Whether classes can be added to a head: one convolution for all maps, with a yes or no for each class."""
    return (
        isinstance(head, DenseHead)
        and head.kind != "ssd"
        and len(set(head.each)) == 1
        and isinstance(head.classes, nn.Conv2d)
        and head.classes.bias is not None
    )


def join_boxes(source: nn.Module, fresh: nn.Module) -> None:
    """Puts the pretrained class outputs into a fresh head, whose box layers have started from the pretrained ones."""
    assert isinstance(source, DenseHead) and isinstance(fresh, DenseHead)
    assert isinstance(source.classes, nn.Conv2d) and isinstance(fresh.classes, nn.Conv2d)
    fresh.classes = JointConv(source.classes, fresh.classes, fresh.each[0])


def plain_boxes(head: nn.Module) -> nn.Module:
    """A head with joint class outputs as an ordinary one; any other head as it is."""
    if not (isinstance(head, DenseHead) and isinstance(head.classes, JointConv)):
        return head
    plain = DenseHead(head.classes.plain(), head.boxes, head.centred, head.each, head.kind, head.unpadded)
    return plain.train(head.training)


def old_boxes(head: nn.Module) -> DenseHead:
    """A head with joint class outputs without those of new classes; its layers are the head's own."""
    assert isinstance(head, DenseHead) and isinstance(head.classes, JointConv)
    return DenseHead(head.classes.old, head.boxes, head.centred, head.each, head.kind, head.unpadded)
