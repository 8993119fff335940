"""Ordinary tensors, and those of which each rank holds a part, alike. Imports torch alone."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_sharded(tensor: object) -> bool:
    """Whether each rank holds a part of it alone (a DTensor, whose module is not there where torch has no distributed)."""
    return hasattr(tensor, "to_local")


def local(tensor: Any) -> Tensor:
    """The part that this rank holds, sharing its memory, without gradient; an ordinary tensor itself."""
    part: Tensor = tensor
    if is_sharded(tensor):
        with torch.no_grad():
            part = tensor.to_local()
    return part


def whole(tensor: Any) -> Tensor:
    """All of it, on every rank: all must call this. An ordinary tensor itself."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return full


def gathered(tensor: Any) -> Tensor:
    """A copy of all of it: of a sharded tensor in the first rank's memory alone, and all ranks must call this."""
    if not is_sharded(tensor):
        copy: Tensor = tensor.detach().clone()
        return copy
    full = whole(tensor)
    return full.cpu() if dist.get_rank() == 0 else torch.empty(0)


def part_of(tensor: Tensor, like: Any) -> Tensor:
    """The whole `tensor` in parts as `like` is: each rank takes its own, and nothing is sent."""
    if not is_sharded(like) or is_sharded(tensor) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def over_ranks(value: Tensor, tensors: Sequence[Any]) -> Tensor:
    """The sum over ranks of a value that each computed of its parts of `tensors`; of ordinary tensors the value itself."""
    if tensors and is_sharded(tensors[0]):
        dist.all_reduce(value, group=tensors[0].device_mesh.get_group())
    return value
