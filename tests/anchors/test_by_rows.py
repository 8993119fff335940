"""Cross-entropy and KL by rows against the plain formulae: values, gradients, half precision, memory's bounds."""

from collections.abc import Callable
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
        theirs = teacher.detach() * 1.0

        def forward() -> Tensor:
            mine = student * 1.0  # as a layer's outputs
            squares = mine.square().sum()  # saved for the backward pass, as a user's own anchor may do
            with spared(mine, theirs) if over else nullcontext():
                task = summed_cross_entropy(mine, y, at_once=22)
                anchor = kl_by_rows(mine, theirs, 2.0, at_once=22).sum()
            return task + 0.3 * anchor + (mine.square().sum() if over else squares)

        total = forward()
        (found,) = torch.autograd.grad(0.7 * total, student, retain_graph=True)
        if over:
            assert not theirs.numel(), "the teacher's memory was not used"
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


@pytest.mark.parametrize("keep", ["itself", "detached", "a view", "an array"])
def test_outputs_that_a_callback_holds_stay_as_they_are(keep: str) -> None:
    student, _, y = logits(7, torch.float32)

    def forward() -> tuple[Tensor, object]:
        mine = student * 1.0
        with spared(mine):
            loss = summed_cross_entropy(mine, y, 22)
        kept = {"itself": mine, "detached": mine.detach(), "a view": mine[:], "an array": mine.detach().numpy()}[keep]
        return loss, kept

    loss, kept = forward()
    loss.backward()
    assert torch.equal(torch.as_tensor(kept), student)


def test_a_second_loss_on_the_same_outputs_is_right() -> None:
    student, teacher, y = logits(7)

    def gradient(over: bool) -> Tensor:
        def forward() -> Tensor:
            mine = student * 1.0
            with spared(mine) if over else nullcontext():
                return summed_cross_entropy(mine, y, 22) + 0.5 * summed_cross_entropy(mine, y.flip(0), 22)

        (found,) = torch.autograd.grad(forward(), student)
        return found

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-14, atol=1e-14)
    with spared(teacher := teacher.detach()):
        kl_by_rows(student, teacher, 2.0, 22)
        with pytest.raises(RuntimeError):  # what it held is gone, so a second distance cannot be wrong in silence
            kl_by_rows(student, teacher, 1.0, 22)


@pytest.mark.parametrize("last", [torch.tanh, torch.relu, lambda z: z.log_softmax(-1)])
def test_a_last_layer_that_needs_its_own_output_keeps_it(last: Callable[[Tensor], Tensor]) -> None:
    student, _, y = logits(7)
    (wanted,) = torch.autograd.grad(F.cross_entropy(last(student), y, reduction="sum"), student)

    def forward() -> Tensor:
        outputs = last(student)
        with spared(outputs):
            return summed_cross_entropy(outputs, y, 22)

    forward().backward()
    torch.testing.assert_close(student.grad, wanted, rtol=1e-12, atol=1e-12)


def test_a_gradient_over_the_teacher_in_half_precision_keeps_small_differences() -> None:
    """A vocabulary's probabilities differ by about 1e-7 near the start, where float16 has one digit. A scaler comes later."""
    random, scale = torch.Generator().manual_seed(0), 65536.0 / 16
    teacher = torch.randn(4, 30_000, generator=random).half()
    student = (teacher.float() + 0.02 * torch.randn(4, 30_000, generator=random)).half().requires_grad_()
    exact = student.detach().double().requires_grad_()
    (wanted,) = torch.autograd.grad(scale * kl(exact, teacher.double(), 2.0).sum(), exact)
    with spared(teacher):
        (scale * kl_by_rows(student, teacher, 2.0, 30_000).sum()).backward()
    assert student.grad is not None and not teacher.numel()
    assert float((student.grad.double() - wanted).norm() / wanted.norm()) < 1e-3


def test_rows_without_a_target_have_no_gradient() -> None:
    student, _, y = logits(7)
    for targets in (torch.where(y > 5, y, -100), torch.full_like(y, -100)):
        expected = F.cross_entropy(student, targets, reduction="sum")
        found = summed_cross_entropy(student, targets, 22)
        wanted, gradient = (torch.autograd.grad(v, student)[0] for v in (expected, found))
        torch.testing.assert_close((found, gradient), (expected, wanted), rtol=1e-12, atol=1e-12)
