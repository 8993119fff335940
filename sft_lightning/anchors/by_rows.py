"""KL divergence of large outputs, a few rows at a time, so that the copies it computes with stay small.

A language model's logits have N rows of V columns, with V up to 250,000. The plain formula holds about five more tensors of
that size, in single precision. Here value and gradient are computed for some rows at once. Beside student and teacher, only
the student's gradient has N·V values. The gradient is computed again in the backward pass, where memory is short.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

AT_ONCE = 1 << 22
"""Values that are computed at once, 16 MiB in single precision; smaller tensors take the plain formula"""


def pieces(outputs: Tensor, at_once: int) -> Iterator[slice]:
    """Slices of the rows of `outputs[N, V]`, with about `at_once` values each."""
    rows, columns = outputs.shape
    step = max(1, at_once // max(1, columns))
    return (slice(start, start + step) for start in range(0, rows, step))


class KLByRows(torch.autograd.Function):
    """T²·KL(softmax(t/T) ‖ softmax(s/T)) in nats: `[N]`. The teacher gets no gradient, and there is no second derivative."""

    @staticmethod
    def forward(ctx: FunctionCtx, student: Tensor, teacher: Tensor, temperature: float, at_once: int) -> Tensor:
        ctx.save_for_backward(student, teacher)
        ctx.temperature, ctx.at_once = temperature, at_once  # type: ignore[attr-defined]
        dtype = torch.promote_types(student.dtype, torch.float32)
        value = student.new_empty(len(student), dtype=dtype)
        for some in pieces(student, at_once):
            mine, theirs = (log_softmax(logits[some], temperature, dtype) for logits in (student, teacher))
            value[some] = theirs.sub(mine).mul_(theirs.exp_()).sum(-1)
        return value.mul_(temperature**2)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, outer: Tensor) -> tuple[Tensor, None, None, None]:
        """∂/∂s = T·(softmax(s/T) − softmax(t/T))."""
        student, teacher = ctx.saved_tensors  # type: ignore[attr-defined]
        temperature, at_once = ctx.temperature, ctx.at_once  # type: ignore[attr-defined]
        gradient = torch.empty_like(student)
        for some in pieces(student, at_once):
            mine, theirs = (log_softmax(logits[some], temperature, outer.dtype).exp_() for logits in (student, teacher))
            gradient[some] = mine.sub_(theirs).mul_(outer[some, None] * temperature)
        return gradient, None, None, None


def log_softmax(logits: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """Of `logits` / T, as a new tensor."""
    return torch.log_softmax(logits.to(dtype) / temperature, -1)


def kl_by_rows(student: Tensor, teacher: Tensor, temperature: float, at_once: int = AT_ONCE) -> Tensor:
    """T²·KL(softmax(t/T) ‖ softmax(s/T)) in nats for each row of `[N, V]`: `[N]`."""
    value: Tensor = KLByRows.apply(student, teacher.detach(), temperature, at_once)
    return value
