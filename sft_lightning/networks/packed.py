"""Runs a language model on rows that hold several samples each, and tests whether it keeps them apart.

Positions restart at each sample, and no padding mask is given. transformers' models then mask attention between samples, with
a sliding window too. Not every model does: recurrent ones, and ones that count distances themselves, see the samples before.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sft_lightning.sharding.tensors import is_sharded

if TYPE_CHECKING:
    from sft_lightning.networks.base import Network

ROW, START = "packed_row", "packed_start"
"""Inputs, int64 `[B]`: the row into which each sample goes, and its first place there"""
TRIED = (6, 5)
"""Tokens of the samples with which a network is tested"""


def encode_packed(
    x: dict[str, Tensor], positions: Tensor, encode: Callable[[Tensor, Tensor], Tensor], padding: int
) -> Tensor:
    """Joins samples into rows, encodes them, and takes them apart again: `[B, T, D]`, arbitrary at padding.

    Args:
        x: `input_ids` and `attention_mask`, `[B, T]`, and the layout.
        positions: Position of each token in its sample: `[B, T]`.
        encode: Takes tokens and positions of P rows, `[P, W]`, and gives `[P, W, D]`.
        padding: Token at the ends of rows.
    """
    ids, mask = x["input_ids"], x["attention_mask"].bool()
    row = x[ROW][:, None].expand_as(ids)
    place = torch.where(mask, x[START][:, None] + positions, 0)
    shape = int(row.max()) + 1, int(place.max()) + 1
    tokens, at = ids.new_full(shape, padding), ids.new_zeros(shape)
    tokens[row[mask], place[mask]] = ids[mask]
    at[row[mask], place[mask]] = positions[mask]  # 0 at padding, so that each of its tokens is a sample of its own
    return encode(tokens, at)[row, place]


@torch.no_grad()
def why_not_apart(network: "Network", vocabulary: int, most: int | None) -> str:
    """Why the network cannot keep samples of one row apart; empty if it can.

    It runs the network on two samples in one row: changing one must not change the other's logits, and both must have the
    logits that they have in rows of their own.

    Args:
        network: A language model.
        vocabulary: Number of its tokens.
        most: Most tokens that it takes; None for any number.
    """
    if any(map(is_sharded, network.parameters())):
        return "this cannot be tried with trainer.strategy fsdp2"  # running it now would fix the precision of its parts
    device = next(network.parameters()).device
    modes = {m: m.training for m in network.modules()}
    network.eval()
    try:
        sizes = [max(1, min(size, (most or sum(TRIED)) // 2)) for size in TRIED]
        width = max(sizes)
        random = torch.Generator().manual_seed(0)
        one, other = (torch.randint(vocabulary, (2, width), generator=random).to(device) for _ in range(2))
        mask = (torch.arange(width) < torch.tensor(sizes)[:, None]).long().to(device)
        layout = {ROW: torch.zeros(2, dtype=torch.int64, device=device), START: torch.tensor([0, sizes[0]]).to(device)}

        def logits(*ids: Tensor, **extra: Tensor) -> list[Tensor]:
            found = network({"input_ids": torch.stack(ids), "attention_mask": mask, **extra}, mask.bool()).logits
            return list(found.split(sizes))

        alone, together = logits(one[0], one[1]), logits(one[0], one[1], **layout)
        changed = [logits(other[0], one[1], **layout)[1], logits(one[0], other[1], **layout)[0]]
    except (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"it does not run on rows of several samples ({said:.120})"
    finally:
        for module, mode in modes.items():
            module.training = mode
    exact = torch.finfo(alone[0].dtype).eps
    if not same(together[1], changed[0], 64 * exact) or not same(together[0], changed[1], 64 * exact):
        return "a sample's logits change with another sample in its row"
    if not all(same(a, b, min(1024 * exact, 0.1)) for a, b in zip(alone, together, strict=True)):
        return "a sample has other logits in a row with another one than alone"
    return ""


def same(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two results are equal to within a share of their largest value."""
    largest: Any = one.abs().max()
    return bool((one - other).abs().max() <= tolerance * largest)
