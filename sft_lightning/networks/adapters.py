"""Adapters: small tensors beside a pretrained weight w, with which the network computes w + Δ."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from sft_lightning.sharding.tensors import is_sharded, part_of, whole


class Adapter(ABC):
    """Changes one pretrained weight w by Δ, a function of trained parameters that is 0 at the start.

    Args:
        weight: Full name of w, as the pretrained network calls it.
    """

    def __init__(self, weight: str) -> None:
        self.weight = weight

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters, by full name."""

    @abstractmethod
    def delta(self) -> Tensor:
        """Δ, in w's shape; whole on every rank (all must call this), and differentiable."""

    @abstractmethod
    def scale(self, factor: float) -> None:
        """Δ ← factor·Δ, in place."""

    @abstractmethod
    def merged(self, encoder: nn.Module) -> AbstractContextManager[None]:
        """While open, `encoder` has the pretrained layer in its old place, with w + Δ. Closing restores everything."""

    @property
    def trained(self) -> bool:
        """Whether any of its parameters is trained."""
        return any(p.requires_grad for p in self.parameters().values())

    def effective(self, weight: Tensor) -> Tensor:
        """W + Δ without gradient, sharded if w is."""
        with torch.no_grad():
            return weight.detach() + part_of(self.delta().to(weight.dtype), weight)

    @torch.enable_grad()
    def add_grad(self, penalty: Callable[[Tensor], Tensor]) -> None:
        """Adds the gradient of `penalty(Δ)`, a scalar, to the parameters' `.grad`; skips those without a gradient."""
        active = [p for p in self.parameters().values() if p.grad is not None]
        if not active:
            return
        for parameter, grad in zip(active, torch.autograd.grad(penalty(self.delta()), active), strict=True):
            assert parameter.grad is not None
            parameter.grad.add_(part_of(whole(grad), parameter) if is_sharded(parameter) else grad)


@torch.no_grad()
def squared_length(adapters: list[Adapter]) -> Tensor:
    """Σ ‖Δ‖² over adapters, a scalar, summed in at least single precision: the squared drift of the adapted weights."""
    lengths = [torch.linalg.vector_norm(a.delta().float()).square() for a in adapters]
    return torch.stack(lengths).sum() if lengths else torch.zeros(())
