"""TextScore: a score of all generated texts together, whatever their order, batches or ranks."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.errors import UserError

Pair = tuple[str, tuple[str, ...]]
"""A generated text, and the texts that would be right"""


class TextScore(Metric):
    """A score of all generated texts together, whatever their order, batches or ranks.

    Args:
        score: Computes the score from all pairs.
    """

    higher_is_better = True
    full_state_update = False

    def __init__(self, score: Callable[[Sequence[Pair]], float]) -> None:
        super().__init__()
        self.score = score
        self.pairs: list[Pair] = []

    def update(self, generated: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        """Adds generated texts, each with the texts that would be right."""
        self.pairs += [(text, tuple(right)) for text, right in zip(generated, references, strict=True)]

    def compute(self) -> Tensor:
        """The score over all ranks. Raises UserError if no text was generated."""
        pairs = self.pairs
        if self.distributed_available_fn is not None and self.distributed_available_fn():
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, pairs)
            pairs = [pair for part in parts for pair in part]
        if not pairs:
            raise UserError(
                "data.generate_samples",
                "no text was generated, so that there is nothing to score",
                "set it higher, or to 0 to score no texts",
            )
        return torch.tensor(self.score(sorted(pairs)), dtype=torch.float64)

    def reset(self) -> None:
        super().reset()
        self.pairs = []
