"""Linear centred kernel alignment (Kornblith et al. 2019, eq. 3): how alike two sets of features are, up to rotation."""

import torch
from torch import Tensor


class CKASums:
    """Streaming sums from which linear CKA follows exactly, whatever the batches or the ranks.

    Add `x_ND` and `y_NE` in any pieces; `tensors` can be summed over processes. Double precision.
    """

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []

    def add(self, x_ND: Tensor, y_NE: Tensor) -> None:
        x, y = x_ND.detach().double().flatten(1), y_NE.detach().double().flatten(1)
        new = [x.new_tensor(float(len(x))), x.sum(0), y.sum(0), x.T @ x, y.T @ y, x.T @ y]
        self.tensors = [a + b for a, b in zip(self.tensors, new, strict=True)] if self.tensors else new

    def value(self) -> Tensor:
        """CKA in [0, 1], a scalar; 1 for equal features; NaN for fewer than two items or constant features."""
        if not self.tensors:
            return torch.tensor(float("nan"))
        n, sx, sy, xx, yy, xy = self.tensors
        cxx, cyy, cxy = xx - torch.outer(sx, sx) / n, yy - torch.outer(sy, sy) / n, xy - torch.outer(sx, sy) / n
        alike: Tensor = cxy.square().sum() / (cxx.norm() * cyy.norm())
        return alike


def linear_cka(x_ND: Tensor, y_NE: Tensor) -> Tensor:
    """Linear CKA of features of the same N items: a scalar in [0, 1], invariant to rotation and isotropic scale."""
    sums = CKASums()
    sums.add(x_ND, y_NE)
    return sums.value()
