"""L2-SP: pulls weights towards their start (Li, Grandvalet, Davoine 2018, eq. 2). Lists of tensors, foreach kernels.

Each rank pulls its part of sharded weights, because the gradient of a weight depends on that weight alone. The penalty's value
is summed over ranks, so all ranks must compute it.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sft_lightning.sharding.tensors import local, over_ranks

PIECE = 1 << 20
"""Number of values in one partial sum, and of values that are handled at once on a CPU, whose caches hold them"""
LARGE_PIECE = 1 << 24
"""Number of values that are handled at once on other devices"""


@torch.no_grad()
def squared_distance(weights: Sequence[Tensor], start: Sequence[Tensor] | None) -> Tensor:
    """‖w − w⁰‖² over all tensors, a scalar; `start=None` means the origin. Zero for an empty list.

    Differences are in at least single precision, and their sum is in double if the device has it: a sum of 10⁸ squares
    in single precision is off by percents. The sum takes a tensor in pieces, so that the tensor is never copied.
    """
    if not weights:
        return torch.zeros(())
    starts = [None] * len(weights) if start is None else [local(s) for s in start]
    sums = [_squares(local(w), s) for w, s in zip(weights, starts, strict=True)]
    return over_ranks(torch.stack(sums).sum(), weights)


def _squares(weight: Tensor, start: Tensor | None) -> Tensor:
    """‖w − w⁰‖² of one tensor."""
    exact = torch.float32 if weight.device.type == "mps" else torch.float64
    single = torch.promote_types(weight.dtype, torch.float32)
    total = torch.zeros((), dtype=exact, device=weight.device)
    pieces = in_pieces(weight)
    starts = [None] * len(pieces) if start is None else in_pieces(start)
    for piece, origin in zip(pieces, starts, strict=True):
        moved = piece.to(single) if origin is None else piece.to(single) - origin.to(piece.device, single)
        total += torch.linalg.vector_norm(moved, dtype=exact).square()
    return total


def in_pieces(tensor: Tensor) -> Sequence[Tensor]:
    """The values in pieces of `PIECE`; a smaller tensor as it is."""
    return (tensor,) if tensor.numel() <= PIECE and tensor.is_contiguous() else torch.split(tensor.reshape(-1), PIECE)


def l2sp_penalty(weights: Sequence[Tensor], start: Sequence[Tensor] | None, strength: float) -> Tensor:
    """(strength/2)·‖w − w⁰‖², a scalar without gradient: for logging. The gradient is `add_l2sp_gradient`."""
    return 0.5 * strength * squared_distance(weights, start)


@torch.no_grad()
def add_l2sp_gradient(weights: Sequence[Tensor], start: Sequence[Tensor] | None, strength: float) -> None:
    """Adds strength·(w − w⁰), the gradient of `l2sp_penalty`, to each weight's `.grad`, in place.

    Call once per optimizer step, after unscaling and before clipping. Skips tensors without a gradient (frozen, unused).
    The difference is computed first, because near the start it is exact; adding s·w and then −s·w⁰ would leave
    the rounding of both in the gradient.
    """
    active = [(i, local(w.detach()), local(w.grad)) for i, w in enumerate(weights) if w.grad is not None]
    if not active or strength == 0.0:
        return
    grads, moved = [grad for _, _, grad in active], [w for _, w, _ in active]
    if start is None:
        torch._foreach_add_(grads, moved, alpha=strength)
        return
    for some, ws, origins in pieces_of(grads, moved, [local(start[i]) for i, _, _ in active]):
        torch._foreach_add_(some, torch._foreach_sub(ws, beside(origins, ws)), alpha=strength)


def beside(origins: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """The origins on their weights' devices, copied there if they lie in the host's memory."""
    if all(o.device == w.device for o, w in zip(origins, weights, strict=True)):
        return origins
    return [o.to(w.device, non_blocking=True) for o, w in zip(origins, weights, strict=True)]


def pieces_of(*lists: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Views of tensors in lists that belong together, a few tensors or a part of one at a time, so that what is computed with
    them takes little memory.
    """
    groups: tuple[list[Tensor], ...] = tuple([] for _ in lists)
    held = 0
    for tensors in zip(*lists, strict=True):
        most = PIECE if tensors[0].device.type == "cpu" else LARGE_PIECE
        if tensors[0].numel() > most and all(t.is_contiguous() for t in tensors):
            parts = zip(*(t.view(-1).split(most) for t in tensors), strict=True)
            yield from (tuple([part] for part in each) for each in parts)
            continue
        if held and held + tensors[0].numel() > most:
            yield groups
            groups, held = tuple([] for _ in lists), 0
        for group, tensor in zip(groups, tensors, strict=True):
            group.append(tensor)
        held += tensors[0].numel()
    if held:
        yield groups


@torch.no_grad()
def pull_towards(weights: Sequence[Tensor], start: Sequence[Tensor], share: float) -> None:
    """W ← w − share·(w − w⁰), in place: decoupled L2-SP, with share = lr·λ. With w⁰ = 0 it is AdamW's weight decay."""
    if not weights or share == 0.0:
        return
    ws, origins = [local(w.detach()) for w in weights], [local(s) for s in start]
    if all(o.dtype == w.dtype and o.device == w.device for o, w in zip(origins, ws, strict=True)):
        torch._foreach_lerp_(ws, origins, share)
        return
    for some, kept in pieces_of(ws, origins):
        like = [o.to(w.device, w.dtype, non_blocking=True) for o, w in zip(kept, some, strict=True)]
        torch._foreach_lerp_(some, like, share)
