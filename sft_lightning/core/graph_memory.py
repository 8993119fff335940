"""Counts the bytes that the graph of a loss keeps for its backward pass, by reading the graph alone."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor


def storages(tensors: Iterable[Tensor]) -> dict[tuple[str, int], int]:
    """Bytes of the memory blocks behind tensors, by device and address. Views of one block count once."""
    found = {}
    for tensor in tensors:
        if tensor.layout is not torch.strided:  # sparse tensors have several blocks
            continue
        if (block := tensor.untyped_storage()).nbytes():
            found[str(tensor.device), block.data_ptr()] = block.nbytes()
    return found


def kept_for_backward(loss: Tensor, besides: Iterable[Tensor] = ()) -> int | None:
    """Bytes that the graph of `loss` keeps until its backward pass, without the blocks of `besides`, such as the weights.

    Nothing of the graph is changed or computed again. Buffers inside libraries, and what a layer that recomputes its
    activations keeps, cannot be seen.

    Returns:
        The bytes; None if hooks replace saved tensors, as gradient_checkpointing does, or if torch does not show them.
    """
    kept: dict[tuple[str, int], int] = {}
    for node in nodes_of(loss):
        for saved in saved_by(node):
            if not hasattr(saved, "unpack_hook") or saved.unpack_hook is not None:
                return None
            if isinstance(saved.data, Tensor):
                kept |= storages([saved.data])
        if isinstance(node, torch.autograd.function.BackwardCFunction):  # a function in Python may keep more by itself
            kept |= storages(value for value in vars(node).values() if isinstance(value, Tensor))
    return sum(kept[block] for block in kept.keys() - storages(besides).keys())


def nodes_of(loss: Tensor) -> Iterator[Any]:
    """All nodes of the graph of `loss`, each once."""
    waiting, seen = [loss.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [before for before, _ in node.next_functions]


def saved_by(node: Any) -> list[Any]:
    """What a node of a graph saved: torch's objects that hold tensors, without a look inside."""
    found: list[Any] = []
    for name in dir(type(node)):
        if name.startswith("_raw_saved_"):
            held = getattr(node, name)
            found += held if isinstance(held, list | tuple) else [held]
    return [saved for saved in found if saved is not None]
