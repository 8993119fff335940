"""Cross-entropy of large outputs, a few rows at a time, so that logits of a large vocabulary are not copied in whole."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from sft_lightning.anchors.by_rows import AT_ONCE, claim, held, pieces

IGNORED = -100
"""The target of rows without a loss, torch's default"""


class CrossEntropyByRows(torch.autograd.Function):
    """The sum over rows of −log softmax(logits)[y], in nats, without rows whose y is −100, as in torch. There is no second
    derivative.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, y: Tensor, at_once: int) -> Tensor:
        ctx.save_for_backward(logits, y)
        ctx.at_once, ctx.over = at_once, claim(logits)  # type: ignore[attr-defined]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        parts = [F.cross_entropy(logits[some].to(dtype), y[some], reduction="sum") for some in pieces(logits, at_once)]
        return torch.stack(parts).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, outer: Tensor) -> tuple[Tensor, None, None]:
        """∂/∂logits = softmax(logits) − one-hot(y)."""
        logits, y = ctx.saved_tensors  # type: ignore[attr-defined]
        over = ctx.over  # type: ignore[attr-defined]
        gradient = logits.detach() if over and not held(logits) else torch.empty_like(logits)
        if over is None:
            raise RuntimeError("the gradient of spared outputs can be computed only once")
        ctx.over = None if over else False  # type: ignore[attr-defined]
        for some in pieces(logits, ctx.at_once):  # type: ignore[attr-defined]
            part = torch.softmax(logits[some].to(outer.dtype), -1)
            label = y[some, None]
            part.scatter_add_(1, label.clamp(min=0), part.new_full((len(part), 1), -1.0))
            gradient[some] = part.mul_(outer * (label != IGNORED))
        return gradient, None, None


def summed_cross_entropy(logits: Tensor, y: Tensor, at_once: int = AT_ONCE) -> Tensor:
    """−Σ log softmax(`logits[N, V]`)[`y[N]`] in nats, in single precision at least: a scalar."""
    if logits.numel() <= at_once:
        return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), y, reduction="sum")
    value: Tensor = CrossEntropyByRows.apply(logits, y, at_once)
    return value
