"""Samples whose labels speak of some of all labels: data of new labels say nothing of old ones, and the reverse."""

import torch
import torch.nn.functional as F
from torch import Tensor

from sft_lightning.core.structures import Batch


def covered_rows(batch: Batch) -> Tensor | None:
    """`[N, C]` bool, which labels each item's annotation covers, from the batch's `covered[B, C]`; None if that is absent."""
    if "covered" not in batch:
        return None
    covered: Tensor = batch["covered"]
    if "select" in batch:
        counts = batch["select"].flatten(1).sum(1)
        return covered.repeat_interleave(counts, 0, output_size=int(batch["count"]))
    return covered[batch["real"]] if "real" in batch else covered


def among_covered(logits: Tensor, covered: Tensor, outside: int) -> Tensor:
    """Logits `[N, C]` of the labels that each row's annotation covers, if `outside` stands for all others.

    The logit of `outside` becomes log Σ exp over itself and the labels that are not covered, whose own become −∞. So the
    softmax gives `outside` the sum of their probabilities, and leaves the others' as they are.
    """
    rest = ~covered
    rest[:, outside] = True
    whole = logits.masked_fill(~rest, -torch.inf).logsumexp(-1, keepdim=True)
    place = F.one_hot(torch.full(logits.shape[:1], outside, device=logits.device), logits.shape[1]).bool()
    return torch.where(place, whole, logits.masked_fill(rest, -torch.inf))


def partial_cross_entropy(logits: Tensor, y: Tensor, covered: Tensor, outside: int, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of `among_covered`, summed over rows. If all labels are covered, it is the ordinary one.

    It is the unbiased cross-entropy of Cermelli et al. (2020), Modeling the Background, where `outside` is the
    background. A share `smoothing` of each label is spread evenly over the labels that are covered.
    """
    covered = covered.clone()
    covered[:, outside] = True
    said = among_covered(logits, covered, outside).log_softmax(-1)
    right = -said.gather(1, y[:, None]).sum()
    if not smoothing:
        return right
    each = -said.masked_fill(~covered, 0.0).sum(1) / covered.sum(1)
    return (1 - smoothing) * right + smoothing * each.sum()


def old_with_outside(logits: Tensor, known: int, outside: int) -> Tensor:
    """Logits `[N, S]` of the S old labels, which come first, if `outside`, one of them, stands for all new ones too."""
    covered = torch.ones_like(logits, dtype=torch.bool)
    covered[:, known:] = False
    return among_covered(logits, covered, outside)[:, :known]
