"""Sequence to sequence: predicts the next token of a target text from a source text and the target so far."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from sft_lightning.core.structures import Batch, Output
from sft_lightning.tasks.base import at_least_single
from sft_lightning.tasks.next_token import NextToken


class Seq2Seq(NextToken):
    """`logits[N, V]` at the N positions of target texts, `y[N]` their tokens, including those that end the texts.

    Translations are scored by `bleu` and `chrf`, summaries by `rouge1`, `rouge2`, `rougeL` and `rougeLsum`.
    """

    name = "seq2seq"
    smooths_labels = True

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(at_least_single(logits), y, reduction="sum", label_smoothing=self.label_smoothing)

    def decode(self, output: Output, batch: Batch) -> list[dict[str, Any]]:
        """As for other texts; only `text` and `words` for samples without a target."""
        rows = super().decode(output, batch)
        return rows if "y" in batch else [{n: row[n] for n in ("text", "words") if n in row} for row in rows]
