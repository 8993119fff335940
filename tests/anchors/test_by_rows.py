"""Cross-entropy and KL by rows against the plain formulae: values, gradients, half precision, memory's bounds."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sft_lightning.anchors import by_rows, function_space, kl
from sft_lightning.anchors.by_rows import kl_by_rows, pieces, spared
from sft_lightning.tasks.cross_entropy import summed_cross_entropy


def logits(rows: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Student with gradient, teacher with one it must not get, and targets, of 11 classes."""
    random = torch.Generator().manual_seed(seed)
    student, teacher = ((torch.randn(rows, 11, generator=random) * 3).to(dtype).requires_grad_() for _ in range(2))
    return student, teacher, torch.randint(11, (rows,), generator=random)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("at_once", [1, 30, 10_000])
def test_kl_by_rows_is_kl(dtype: torch.dtype, temperature: float, at_once: int) -> None:
    student, teacher, _ = logits(7, dtype)
    weights = torch.linspace(0.5, 2.0, 7)
    expected = kl(student, teacher, temperature)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), student)
    found = kl_by_rows(student, teacher, temperature, at_once)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 if dtype != torch.float64 else 1e-12)
    (found * weights).sum().backward()
    assert teacher.grad is None and student.grad is not None and student.grad.dtype == dtype
    bound = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 1e-2)
    torch.testing.assert_close(student.grad, wanted, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_cross_entropy_by_rows_is_cross_entropy(dtype: torch.dtype) -> None:
    student, _, y = logits(7, dtype)
    wide = torch.promote_types(dtype, torch.float32)
    expected = F.cross_entropy(student.to(wide), y, reduction="sum")
    (wanted,) = torch.autograd.grad(expected * 0.7, student)
    found = summed_cross_entropy(student, y, at_once=30)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    (found * 0.7).backward()
    bound = {torch.float64: 1e-12, torch.float32: 1e-6}.get(dtype, 1e-2)
    torch.testing.assert_close(student.grad, wanted, rtol=bound, atol=bound)


def test_gradients_by_rows_are_the_slopes_of_the_values() -> None:
    student, teacher, y = logits(5)
    assert torch.autograd.gradcheck(lambda s: kl_by_rows(s, teacher, 1.7, 22), student)
    assert torch.autograd.gradcheck(lambda s: summed_cross_entropy(s, y, 22), student)


def test_equal_outputs_have_no_divergence_and_no_gradient() -> None:
    student, _, _ = logits(5, torch.float32)
    value = kl_by_rows(student, student.detach().clone(), 2.0, 22)
    value.sum().backward()
    assert float(value.detach().abs().max()) == 0.0 and float(student.grad.abs().max()) == 0.0  # type: ignore[union-attr]


def test_no_rows_have_no_value_and_no_gradient() -> None:
    student, teacher, y = logits(0, torch.float32)
    (kl_by_rows(student, teacher, 2.0).sum() + summed_cross_entropy(student, y)).backward()
    assert student.grad is not None and student.grad.shape == (0, 11)


def test_large_outputs_are_computed_by_rows_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, _ = logits(7, torch.float32)
    plain = kl(student, teacher, 2.0)
    monkeypatch.setattr(function_space, "AT_ONCE", 30)
    by = kl(student, teacher, 2.0)
    assert by.grad_fn is not None and "KLByRows" in type(by.grad_fn).__name__
    assert "KLByRows" not in type(plain.grad_fn).__name__
    torch.testing.assert_close(by, plain, rtol=1e-6, atol=1e-6)
    assert [len(range(*s.indices(7))) for s in pieces(student, 30)] == [2, 2, 2, 1]
    assert by_rows.AT_ONCE == 1 << 22


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_gradients_written_over_outputs_that_nobody_needs_are_the_same(dtype: torch.dtype) -> None:
    student, teacher, y = logits(7, dtype)

    def gradient(over: bool) -> tuple[Tensor, Tensor]:
        mine, theirs = student * 1.0, teacher.detach() * 1.0  # as a layer's outputs
        squares = mine.square().sum()  # saved for the backward pass, as a user's own anchor may do
        with spared(mine, theirs) if over else nullcontext():
            task = summed_cross_entropy(mine, y, at_once=22)
            anchor = kl_by_rows(mine, theirs, 2.0, at_once=22).sum()
        total = task + 0.3 * anchor + (mine.square().sum() if over else squares)
        (found,) = torch.autograd.grad(0.7 * total, student, retain_graph=True)
        if over:
            assert theirs.data_ptr() and not torch.equal(theirs, teacher), "the teacher's memory was not used"
            with pytest.raises(RuntimeError, match=r"only once|modified by an inplace"):
                torch.autograd.grad(0.7 * total, student)
        return found, total.detach()

    (found, value), (wanted, expected) = gradient(True), gradient(False)
    assert torch.equal(value, expected)
    bound = {torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, 2e-2)
    torch.testing.assert_close(found, wanted, rtol=bound, atol=bound)


def test_outputs_that_are_needed_are_not_overwritten() -> None:
    student, teacher, y = logits(7, torch.float32)
    before = student.detach().clone(), teacher.detach().clone()
    view = student[:, :]
    with spared(student, view):
        (summed_cross_entropy(student, y, 22) + summed_cross_entropy(view, y, 22)).backward()
        kl_by_rows(student, teacher, 2.0, 22).sum().backward()
    assert torch.equal(student, before[0]) and torch.equal(teacher, before[1])
