"""Linear centred kernel alignment: how alike two sets of features of the same items are, up to rotation and scale.

Two estimators. `value` is the usual one (Kornblith et al. 2019, eq. 3). It is biased upwards if items are few compared with
dimensions: unrelated features give about D/(N + D). `debiased` divides unbiased estimates of HSIC (Song et al.
2012, eq. 5; Nguyen, Raghu, Kornblith 2021, eq. 3): it is about 0 for unrelated features, and can be negative.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CONSTANT = 1e-12
"""Features are constant if their variance is at most this share of their mean square: it is rounding only"""


class CKASums:
    """Streaming sums that give linear CKA exactly, for any split into batches or ranks.

    Add `x_ND` and `y_NE` in any pieces; `tensors` can be summed over processes, and are in double precision.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def add(self, x_ND: Tensor, y_NE: Tensor) -> None:
        x, y = x_ND.detach().double().flatten(1), y_NE.detach().double().flatten(1)
        p, q = x.square().sum(1), y.square().sum(1)  # squared lengths, [N]
        new = [x.new_tensor(float(len(x))), x.sum(0), y.sum(0), x.T @ x, y.T @ y, x.T @ y]
        new += [torch.stack([p @ p, q @ q, p @ q]), p @ x, q @ x, p @ y, q @ y]
        self.tensors = [a + b for a, b in zip(self.tensors, new, strict=True)] if self.tensors else new

    def value(self) -> Tensor:
        """CKA in [0, 1], a scalar; 1 for equal features; NaN for fewer than two items or constant features."""
        if not self.tensors:
            return torch.tensor(float("nan"))
        n, sx, sy, xx, yy, xy = self.tensors[:6]
        if self._constant():
            return n * float("nan")
        cxx, cyy, cxy = xx - torch.outer(sx, sx) / n, yy - torch.outer(sy, sy) / n, xy - torch.outer(sx, sy) / n
        alike: Tensor = cxy.square().sum() / (cxx.norm() * cyy.norm())
        return alike.clamp(max=1.0)  # rounding

    def debiased(self) -> Tensor:
        """The debiased CKA, a scalar, at most 1; NaN for fewer than four items or constant features."""
        if not self.tensors or float(self.tensors[0]) < 4 or self._constant():
            return torch.tensor(float("nan"))
        n, sx, sy, xx, yy, xy, (pp, qq, pq), px, qx, py, qy = self.tensors
        one, other = _Side(sx, xx.trace()), _Side(sy, yy.trace())
        both = _hsic(n, one, other, xy, pq, qx, py)
        own = _hsic(n, one, one, xx, pp, px, px), _hsic(n, other, other, yy, qq, qy, qy)
        if min(own) <= 0:
            return n * float("nan")
        alike: Tensor = both / (own[0] * own[1]).sqrt()
        return alike.clamp(max=1.0)

    def _constant(self) -> bool:
        n, sx, sy, xx, yy = self.tensors[:5]
        return any(
            not float(squares.trace() - total @ total / n) > CONSTANT * float(squares.trace())
            for total, squares in ((sx, xx), (sy, yy))
        )


class _Side(NamedTuple):
    """Sums over one set of features: of the features, `[D]`, and of their squared lengths."""

    total: Tensor
    squares: Tensor


def _hsic(n: Tensor, one: _Side, other: _Side, products: Tensor, lengths: Tensor, qx: Tensor, py: Tensor) -> Tensor:
    """n(n − 3) times the unbiased estimate of HSIC of two linear kernels K = XXᵀ and L = YYᵀ, their diagonals left out.

    `products` = XᵀY; with squared lengths p of X's rows and q of Y's: `lengths` = Σ pq, `qx` = Σ q·x, `py` = Σ p·y.
    """
    trace = products.square().sum() - lengths  # tr K̃L̃
    sums = (one.total @ one.total - one.squares) * (other.total @ other.total - other.squares)  # 1ᵀK̃1 · 1ᵀL̃1
    rows = one.total @ products @ other.total - one.total @ qx - other.total @ py + lengths  # 1ᵀK̃L̃1
    estimate: Tensor = trace + sums / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)
    return estimate


def linear_cka(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    """Linear CKA of features of the same N items: a scalar in [0, 1], invariant to rotation and isotropic scale."""
    sums = CKASums()
    sums.add(x_ND, y_NE)
    return sums.value()
