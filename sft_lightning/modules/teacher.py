"""The pretrained network, frozen: a copy apart from the student, outside the module tree."""

from copy import deepcopy

import torch
from torch import Tensor

from sft_lightning.networks.base import Network, Output, weights_hash


class Teacher:
    """f_θ⁰, and w_S⁰ with it.

    A plain object, not a module: it is in no state_dict, no DDP bucket and no optimizer, and `train()` never reaches
    it. Always in evaluation mode, never with gradients. Made from the network right after `pretrained` was loaded,
    before any checkpoint is restored, so that it is the pretrained network on resume too; `hash` proves it.
    """

    def __init__(self, network: Network) -> None:
        self.network = deepcopy(network).requires_grad_(False).eval()
        known = network.shared_parameters()
        self.start: dict[str, Tensor] = {n: p.data for n, p in self.network.named_parameters() if n in known}
        buffers = {n: b for n, b in self.network.named_buffers() if n.startswith(("encoder.", "source_head."))}
        heads = {n: p for n, p in self.network.named_parameters() if n.startswith("source_head.")}
        self.hash = weights_hash({**self.start, **heads, **buffers})

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Moves it beside the student."""
        known = set(self.start)
        self.network.to(device=device, dtype=dtype)
        self.start = {n: p.data for n, p in self.network.named_parameters() if n in known}

    @torch.no_grad()
    def __call__(self, x: dict[str, Tensor]) -> Output:
        """What the pretrained network says, under the caller's autocast."""
        output: Output = self.network(x)
        return output

    def starts(self, names: list[str]) -> list[Tensor]:
        """w_S⁰ of the parameters named."""
        return [self.start[n] for n in names]
