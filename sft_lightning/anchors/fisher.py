"""Elastic Weight Consolidation: pulls weights back by the Fisher information's diagonal (Kirkpatrick et al. 2017, eq. 3).

Each rank pulls its part of sharded weights, as in `weight_space`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sft_lightning.anchors.weight_space import PIECE, pieces_of
from sft_lightning.sharding.tensors import local, over_ranks


@torch.no_grad()
def add_squares(sums: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Adds the squared gradients of one sample's log-likelihood to `sums`, in place and in their precision."""
    for total, gradient in zip(sums, gradients, strict=True):
        if gradient is not None:
            exact = local(gradient).to(total.dtype)
            local(total).addcmul_(exact, exact)


@torch.no_grad()
def fisher_penalty(
    weights: Sequence[Tensor], start: Sequence[Tensor], fisher: Sequence[Tensor], strength: float
) -> Tensor:
    """(strength/2)·Σ F·(w − w⁰)², a scalar without gradient, summed in double precision if the device has it."""
    if not weights:
        return torch.zeros(())
    device = local(weights[0]).device
    exact = torch.float32 if device.type == "mps" else torch.float64
    total = torch.zeros((), dtype=exact, device=device)
    for weight, origin, information in zip(weights, start, fisher, strict=True):
        parts = [torch.split(local(t.detach()).reshape(-1), PIECE) for t in (weight, origin, information)]
        for w, w0, f in zip(*parts, strict=True):
            total += ((w.to(f.dtype) - w0.to(f.dtype)).square() * f).sum(dtype=exact)
    return 0.5 * strength * over_ranks(total, weights)


@torch.no_grad()
def add_fisher_gradient(
    weights: Sequence[Tensor], start: Sequence[Tensor], fisher: Sequence[Tensor], strength: float
) -> None:
    """Adds strength·F·(w − w⁰), the gradient of `fisher_penalty`, to each weight's `.grad`, in place.

    Call once per optimizer step, after unscaling and before clipping. Skips tensors without a gradient.
    """
    active = [(w, w0, f) for w, w0, f in zip(weights, start, fisher, strict=True) if w.grad is not None]
    if not active or strength == 0.0:
        return
    lists = [local(w.grad) for w, _, _ in active], [local(w.detach()) for w, _, _ in active]
    for grads, ws, origins, some in pieces_of(
        *lists, [local(w0) for _, w0, _ in active], [local(f) for *_, f in active]
    ):
        pull = torch._foreach_mul(torch._foreach_sub(ws, origins), some)
        torch._foreach_add_(grads, [p.to(g.dtype) for p, g in zip(pull, grads, strict=True)], alpha=strength)
