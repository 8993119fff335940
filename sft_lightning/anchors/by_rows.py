"""KL divergence of large outputs, a few rows at a time, so that the copies it computes with stay small.

A language model's logits have N rows of V columns, with V up to 250,000. The plain formula holds about five more tensors of
that size, in single precision. Here value and gradient are computed for some rows at once. Beside student and teacher, only
the student's gradient has N·V values. The gradient is computed again in the backward pass, where memory is short.

In a training step both tensors are of no use after that step, so gradients are written over them (`spared`). Then a step with
a teacher holds two tensors of N·V values at most, and one without holds one.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

AT_ONCE = 1 << 22
"""Values that are computed at once, 16 MiB in single precision; smaller tensors take the plain formula"""


_SPARED: ContextVar[tuple[Tensor, ...]] = ContextVar("spared", default=())


@contextmanager
def spared(*outputs: Tensor) -> Iterator[None]:
    """Context in which losses by rows may write gradients over these outputs, because nobody reads them after the step.

    The student's outputs are overwritten in the backward pass of the first loss that uses them, which runs after that of all
    others. If torch still needed them, it would say so. If something else holds them by then, such as a callback, they stay as
    they are. The teacher's are overwritten at once, and are empty afterwards.
    """
    token = _SPARED.set((*_SPARED.get(), *outputs))
    try:
        yield
    finally:
        _SPARED.reset(token)


def claim(outputs: Tensor) -> bool:
    """Whether the caller may write gradients over `outputs`: they are spared, were not claimed before, and no other tensor
    shares their memory. Layers such as tanh need their own output in the backward pass.
    """
    if not any(outputs is tensor for tensor in _SPARED.get()) or outputs.is_inference():
        return False
    own = outputs.is_contiguous() and not outputs._is_view() and not (outputs.is_leaf and outputs.requires_grad)
    needed = "Compiled" in type(outputs.grad_fn).__name__ or hasattr(outputs.grad_fn, "_saved_result")
    if not own or needed or shared(outputs):
        return False
    _SPARED.set(tuple(tensor for tensor in _SPARED.get() if tensor is not outputs))
    return True


def shared(outputs: Tensor) -> bool:
    """Whether another tensor has the same memory, such as a view or a detached one."""
    alone = 2  # the tensor, and the storage's object that is asked here
    return torch._C._storage_Use_Count(outputs.untyped_storage()._cdata) > alone


def held(outputs: Tensor) -> bool:
    """Whether something else than the caller, who unpacked `outputs` in a backward pass, can still read them."""
    alone = 4  # the caller's variable, this function's argument, torch's own, and that of the call below
    return shared(outputs) or sys.getrefcount(outputs) > alone


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


class KLOver(torch.autograd.Function):
    """`KLByRows` that writes the gradient over the teacher's outputs, in the forward pass. It can run backward only once."""

    @staticmethod
    def forward(ctx: FunctionCtx, student: Tensor, held: list[Tensor], temperature: float, at_once: int) -> Tensor:
        given = held.pop()  # in a list, as autograd wants to know of inputs that are changed
        teacher = given.detach()
        given.data = given.new_empty(0)  # whoever reads it again gets an error, not a gradient
        # Half precision rounds small differences to 0, and a gradient scaler's factor comes later.
        ctx.scale = 2.0**15 if teacher.dtype == torch.float16 else 1.0  # type: ignore[attr-defined]
        dtype = torch.promote_types(student.dtype, torch.float32)
        value = student.new_empty(len(student), dtype=dtype)
        for some in pieces(student, at_once):
            mine, theirs = (log_softmax(logits[some], temperature, dtype) for logits in (student, teacher))
            likely = theirs.exp()
            value[some] = theirs.sub_(mine).mul_(likely).sum(-1)
            difference = mine.exp_().sub_(likely)
            teacher[some] = difference if ctx.scale == 1.0 else difference.mul_(ctx.scale)  # type: ignore[attr-defined]
        ctx.gradient, ctx.temperature = teacher, temperature  # type: ignore[attr-defined]
        return value.mul_(temperature**2)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, outer: Tensor) -> tuple[Tensor, None, None, None]:
        gradient, ctx.gradient = ctx.gradient, None  # type: ignore[attr-defined]
        if gradient is None:
            raise RuntimeError("the gradient of spared outputs can be computed only once")
        factor = ctx.temperature / ctx.scale  # type: ignore[attr-defined]
        return gradient.mul_(outer[:, None] * factor), None, None, None


def log_softmax(logits: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """Of `logits` / T, as a new tensor."""
    return torch.log_softmax(logits.to(dtype) / temperature, -1)


def kl_by_rows(student: Tensor, teacher: Tensor, temperature: float, at_once: int = AT_ONCE) -> Tensor:
    """T²·KL(softmax(t/T) ‖ softmax(s/T)) in nats for each row of `[N, V]`: `[N]`."""
    value: Tensor
    if student.requires_grad and teacher.dtype == student.dtype and claim(teacher):
        value = KLOver.apply(student, [teacher], temperature, at_once)
    else:
        value = KLByRows.apply(student, teacher.detach(), temperature, at_once)
    return value
