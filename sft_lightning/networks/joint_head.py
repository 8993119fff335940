"""One output layer over the labels that the pretrained network knows and new ones, for tuning; exports hold a plain layer."""

from copy import deepcopy

import torch
from torch import Tensor, nn


class JointHead(nn.Module):
    """Features `[…, D]` to logits `[…, S + K]`: S rows that start as the pretrained output layer's, then K fresh rows.

    The two parts are layers of their own. So the old rows are pretrained parameters like the encoder's, which anchors,
    `freeze` and learning rates treat as such, and the new rows are new ones. In evaluation, the new logits are
    scale·z + shift: 1 and 0, unless a correction was solved. In training they are z.

    Args:
        source: The pretrained output layer, S rows.
        fresh: A fresh output layer of S + K rows, of which the last K are taken.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, source: nn.Linear, fresh: nn.Linear) -> None:
        super().__init__()
        known, width = source.weight.shape
        self.old = deepcopy(source).requires_grad_(True)
        self.new = blank(width, fresh.out_features - known, fresh.bias is not None)
        with torch.no_grad():
            self.new.weight.copy_(fresh.weight[known:])
            if fresh.bias is not None:
                self.new.bias.copy_(fresh.bias[known:])
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        new = self.new(features)
        if not self.training:
            new = self.scale * new + self.shift
        return torch.cat([self.old(features), new], -1)

    @torch.no_grad()
    def correct(self, scale: float, shift: float) -> None:
        """Sets the correction of the new logits in evaluation."""
        self.scale.fill_(scale)
        self.shift.fill_(shift)

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """One ordinary layer `[S + K, D]` with the same logits in evaluation. Without biases, `shift` must be 0."""
        old, new = self.old, self.new
        biased = old.bias is not None or new.bias is not None
        layer = blank(old.in_features, old.out_features + new.out_features, biased)
        layer = layer.to(new.weight.device, new.weight.dtype)
        layer.weight.copy_(torch.cat([old.weight, self.scale * new.weight]))
        if biased:
            biases = (
                part.weight.new_zeros(part.out_features) if part.bias is None else part.bias for part in (old, new)
            )
            of_old, of_new = biases
            layer.bias.copy_(torch.cat([of_old, self.scale * of_new + self.shift]))
        return layer.train(self.training)


def blank(width: int, outputs: int, bias: bool) -> nn.Linear:
    """A layer to be filled. It draws no random numbers, so that joining heads changes no other draw of a run."""
    with torch.device("meta"):
        layer = nn.Linear(width, outputs, bias=bias)
    return layer.to_empty(device="cpu")


def plain_head(head: nn.Module) -> nn.Module:
    """A joint head as one ordinary layer; any other head as it is."""
    return head.plain() if isinstance(head, JointHead) else head
