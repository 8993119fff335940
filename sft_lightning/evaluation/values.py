"""Measures how far values moved, for source heads that predict numbers, for which agreement and KL are undefined."""

import math

import torch
from torch import Tensor

CONSTANT = 1e-12
"""Values count as constant if their variance is at most this share of their mean square, as it may be rounding"""


class ValueSums:
    """Streaming sums over `mine_NC` and `theirs_NC`; `tensors`, in double precision, can be summed over processes."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def add(self, mine_NC: Tensor, theirs_NC: Tensor) -> None:
        """Adds N items of C values."""
        s, t = mine_NC.detach().double(), theirs_NC.detach().double()
        sums = [torch.ones_like(s), s, t, s * s, t * t, s * t, (s - t).square()]
        new = torch.stack([v.sum(0) for v in sums])
        self.tensors = [self.tensors[0] + new] if self.tensors else [new]

    def values(self) -> dict[str, float]:
        """`drift/source_mse` and `drift/source_correlation`; NaN if all values are equal, empty if nothing was added.

        The first is Σ(s − t)² over Σ(t − t̄)², each summed over outputs: 0 at the start, 1 if the difference is as large as
        the spread of the pretrained network's values. The second is the mean over outputs of Pearson's correlation.
        """
        if not self.tensors:
            return {}
        n, s, t, ss, tt, st, moved = self.tensors[0]
        spread, own, both = tt - t * t / n, ss - s * s / n, st - s * t / n
        varies = (spread > CONSTANT * tt) & (own > CONSTANT * ss)
        correlation = torch.where(varies, both / (spread * own).sqrt(), torch.nan).clamp(-1.0, 1.0)
        all_alike = not float(spread.sum()) > CONSTANT * float(tt.sum())
        return {
            "drift/source_mse": math.nan if all_alike else float(moved.sum() / spread.sum()),
            "drift/source_correlation": float(correlation.nanmean()),
        }
