"""Distillation of a language model in plain torch with little memory: what our own anchor is compared with.

Loss and divergence are computed at supervised positions alone, in pieces of rows. Each piece's gradient for the features is
taken at once, so that the logits of one piece are in memory, not those of all.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 64
"""Positions of one piece"""


def loss_with_kl(model: Any, teacher: Any, batch: dict[str, Tensor]) -> Tensor:
    """Mean over supervised tokens of cross-entropy + KL(teacher ‖ student). Its gradient is that of the mean."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    select = batch["labels"][:, 1:] != -100
    y = batch["labels"][:, 1:][select]
    features = model.get_decoder()(**inputs, use_cache=False).last_hidden_state[:, :-1][select]
    with torch.no_grad():
        theirs = teacher.get_decoder()(**inputs, use_cache=False).last_hidden_state[:, :-1][select]
    leaf, total = features.detach().requires_grad_(), 0.0
    for at in range(0, len(y), ROWS):
        piece = slice(at, at + ROWS)
        logits = model.lm_head(leaf[piece])
        said = F.log_softmax(logits, -1)
        with torch.no_grad():
            wanted = F.log_softmax(teacher.lm_head(theirs[piece]), -1)
        loss = F.nll_loss(said, y[piece], reduction="sum")
        loss = (loss + F.kl_div(said, wanted, reduction="sum", log_target=True)) / len(y)
        loss.backward()
        total = total + loss.detach()
    assert leaf.grad is not None
    return total + (features * leaf.grad).sum() - (features * leaf.grad).sum().detach()
