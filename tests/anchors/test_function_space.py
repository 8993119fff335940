"""Each distance and its gradient against sums written out with numpy or plain loops, in double precision."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sft_lightning.anchors import DISTANCES, bernoulli_kl, cosine, kl, mse


def pair(seed: int = 0, items: int = 4, dims: int = 5, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(items, dims, generator=generator, dtype=torch.float64) * scale for _ in range(2))
    return student.requires_grad_(), teacher


def slope(f: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences."""
    found = np.zeros_like(at)
    for i in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[i] += step
        down[i] -= step
        found[i] = (f(up) - f(down)) / (2 * step)
    return found


def softened(logits: np.ndarray, temperature: float) -> list[list[float]]:
    rows = [[math.exp(v / temperature) for v in row] for row in logits]
    return [[v / sum(row) for v in row] for row in rows]


def kl_by_hand(student: np.ndarray, teacher: np.ndarray, temperature: float) -> list[float]:
    """T² Σ_c p_c (log p_c − log q_c), p the teacher's and q the student's softened probabilities."""
    p, q = softened(teacher, temperature), softened(student, temperature)
    return [
        temperature**2 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(x, y, strict=True))
        for x, y in zip(p, q, strict=True)
    ]


def mse_by_hand(student: np.ndarray, teacher: np.ndarray) -> list[float]:
    return [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for x, y in zip(student, teacher, strict=True)]


def cosine_by_hand(student: np.ndarray, teacher: np.ndarray) -> list[float]:
    return [
        1 - sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))
        for x, y in zip(student, teacher, strict=True)
    ]


CASES = {
    "mse": (mse, mse_by_hand),
    "cosine": (cosine, cosine_by_hand),
    "kl, T=1": (kl, lambda s, t: kl_by_hand(s, t, 1.0)),
    "kl, T=2": (lambda s, t: kl(s, t, 2.0), lambda s, t: kl_by_hand(s, t, 2.0)),
    "kl, T=7.5": (lambda s, t: kl(s, t, 7.5), lambda s, t: kl_by_hand(s, t, 7.5)),
}


@pytest.mark.parametrize("case", CASES)
def test_value_of_each_item_is_the_formula(case: str) -> None:
    distance, by_hand = CASES[case]
    student, teacher = pair()
    expected = by_hand(student.detach().numpy(), teacher.numpy())
    assert distance(student, teacher).shape == (4,), "one value per item is promised, not reduced over items"
    np.testing.assert_allclose(distance(student, teacher).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_gradient_of_the_sum_over_items_is_the_slope_of_the_formula(case: str) -> None:
    distance, by_hand = CASES[case]
    student, teacher = pair()
    distance(student, teacher).sum().backward()
    expected = slope(lambda s: sum(by_hand(s, teacher.numpy())), student.detach().numpy())
    np.testing.assert_allclose(student.grad, expected, rtol=1e-6, atol=1e-8)


def test_kl_gradient_is_t_times_the_difference_of_probabilities() -> None:
    student, teacher = pair()
    kl(student, teacher, 3.0).sum().backward()
    p, q = (np.array(softened(v.detach().numpy(), 3.0)) for v in (teacher, student))
    np.testing.assert_allclose(student.grad, 3.0 * (q - p), rtol=1e-12, atol=1e-15)


def test_kl_runs_from_teacher_to_student_not_back() -> None:
    student, teacher = pair(scale=3.0)
    forth = kl_by_hand(student.detach().numpy(), teacher.numpy(), 1.0)
    back = kl_by_hand(teacher.numpy(), student.detach().numpy(), 1.0)
    assert not np.allclose(forth, back, rtol=0.05), "the sample does not tell the directions apart"
    np.testing.assert_allclose(kl(student, teacher).detach().numpy(), forth, rtol=1e-12)


def test_mse_is_summed_over_dimensions() -> None:
    one, two = torch.ones(2, 3), torch.ones(2, 6)
    assert mse(one, 0 * one).tolist() == [3.0, 3.0]
    assert mse(two, 0 * two).tolist() == [6.0, 6.0]


def test_lwf_is_the_softened_cross_entropy_up_to_the_teachers_entropy_and_t_squared() -> None:
    """Li and Hoiem 2016, eq. 2 to 4: −Σ y′ log ŷ′ with y′ = y^(1/T) / Σ y^(1/T), from the recorded probabilities."""
    student, teacher = pair()
    recorded, current = torch.softmax(teacher, 1), torch.exp(student) / torch.exp(student).sum(1, keepdim=True)
    target, said = (v.sqrt() / v.sqrt().sum(1, keepdim=True) for v in (recorded, current))  # T = 2
    published = -(target * said.log()).sum(1)
    (expected,) = torch.autograd.grad(published.sum(), student, retain_graph=True)
    (found,) = torch.autograd.grad(kl(student, teacher, 2.0).sum(), student)
    torch.testing.assert_close(found / 4, expected, rtol=1e-12, atol=1e-14)
    entropy = -(target * target.log()).sum(1)
    torch.testing.assert_close(kl(student, teacher, 2.0) / 4 + entropy, published, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", DISTANCES)
def test_equal_inputs_are_at_distance_exactly_zero_with_gradient_exactly_zero(name: str, dtype: torch.dtype) -> None:
    teacher = torch.randn(300, 17, generator=torch.Generator().manual_seed(0)).to(dtype)
    teacher[0] = 0  # features after a ReLU may all be off
    student = teacher.clone().requires_grad_()
    distance = DISTANCES[name](student, teacher)
    assert distance.eq(0).all(), f"{name} of equal inputs is not 0: {distance[distance != 0][:3].tolist()}"
    distance.sum().backward()
    if name == "kl":  # exact up to the rounding of Σ p = 1
        assert student.grad.abs().max() < 1e-2 * (torch.finfo(dtype).eps / torch.finfo(torch.bfloat16).eps)
    else:
        assert student.grad.eq(0).all(), f"the gradient of {name} does not vanish at equality"


@pytest.mark.parametrize("name", DISTANCES)
def test_different_inputs_are_at_a_positive_distance(name: str) -> None:
    student, teacher = pair(items=200)
    assert DISTANCES[name](student, teacher).gt(0).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_the_teacher_gets_no_gradient(name: str) -> None:
    student, teacher = pair()
    teacher.requires_grad_()
    DISTANCES[name](student, teacher).sum().backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.grad is None, f"{name} trains the teacher"


def test_cosine_is_blind_to_length_and_reaches_two_for_opposites() -> None:
    student, teacher = pair()
    torch.testing.assert_close(cosine(student * 7, teacher), cosine(student, teacher * 0.3))
    torch.testing.assert_close(cosine(-teacher, teacher), torch.full((4,), 2.0, dtype=torch.float64))


def test_kl_of_half_precision_logits_is_computed_in_single_precision() -> None:
    student, teacher = (v.detach().to(torch.bfloat16) for v in pair())
    found = kl(student, teacher, 2.0)
    assert found.dtype == torch.float32
    expected = kl_by_hand(student.double().numpy(), teacher.double().numpy(), 2.0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*DISTANCES, "bernoulli_kl"])
def test_distances_of_half_precision_are_computed_in_single_precision(name: str, dtype: torch.dtype) -> None:
    distance = {**DISTANCES, "bernoulli_kl": bernoulli_kl}[name]
    generator = torch.Generator().manual_seed(0)
    student = (12 + torch.randn(3, 512, generator=generator)).to(
        dtype
    )  # squares add up to more than half precision holds
    teacher = (-12 + torch.randn(3, 512, generator=generator)).to(dtype)
    found = distance(student, teacher)
    assert found.dtype == torch.float32
    assert found.double().numpy() == pytest.approx(distance(student.double(), teacher.double()).numpy(), rel=1e-4)


def test_the_divergence_of_labels_is_summed_over_yes_and_no_of_each() -> None:
    student, teacher = pair()
    found = bernoulli_kl(student, teacher, 3.0)
    wanted = []
    for row, other in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([1 / (1 + math.exp(-v / 3)) for v in values] for values in (other, row))
        wanted.append(
            9 * sum(a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)) for a, b in zip(p, q, strict=True))
        )
    assert found.tolist() == pytest.approx(wanted, rel=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    slopes = 3 * ((student / 3).sigmoid() - (teacher / 3).sigmoid())
    assert torch.allclose(gradient, slopes, rtol=1e-9)
    for dtype in (torch.float32, torch.float16):
        same = teacher.to(dtype).requires_grad_()
        at_start = bernoulli_kl(same, teacher.to(dtype)).sum()
        (gradient,) = torch.autograd.grad(at_start, same)
        assert at_start.item() == 0.0 and gradient.abs().max().item() < 1e-7, "not 0 for equal answers"


@pytest.mark.parametrize("name", DISTANCES)
def test_no_items_are_no_distance_and_still_have_a_gradient(name: str) -> None:
    student = torch.zeros(0, 5, requires_grad=True)
    total = DISTANCES[name](student, torch.zeros(0, 5)).sum()
    total.backward()
    assert total.item() == 0.0 and student.grad is not None
