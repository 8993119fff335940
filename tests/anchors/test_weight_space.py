"""L2-SP's value and gradient against autograd on the formula as it stands in the paper."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sft_lightning.anchors import add_l2sp_gradient, l2sp_penalty, pull_towards, weight_space
from sft_lightning.anchors.fisher import add_fisher_gradient
from sft_lightning.anchors.weight_space import squared_distance


def lists(dtype: torch.dtype = torch.float64) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (4,), (2, 3, 2)]
    now = [torch.randn(s, generator=generator, dtype=dtype).requires_grad_() for s in shapes]
    return now, [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]


def naive(now: list[Tensor], start: list[Tensor] | None, strength: float) -> Tensor:
    """(strength/2) Σ (w − w⁰)², element by element."""
    total = torch.zeros((), dtype=torch.float64)
    for i, w in enumerate(now):
        origin = start[i] if start is not None else torch.zeros_like(w)
        for a, b in zip(w.flatten(), origin.flatten(), strict=True):
            total = total + (strength / 2) * (a - b) * (a - b)
    return total


@pytest.mark.parametrize("anchored", [True, False], ids=["towards the start", "towards zero"])
def test_penalty_and_gradient_are_those_of_the_formula(anchored: bool) -> None:
    now, start = lists()
    origin = start if anchored else None
    expected = naive(now, origin, 0.37)
    gradients = torch.autograd.grad(expected, now)
    torch.testing.assert_close(l2sp_penalty(now, origin, 0.37), expected.detach(), rtol=1e-12, atol=0)
    for w in now:
        w.grad = torch.full_like(w, 0.25)
    add_l2sp_gradient(now, origin, 0.37)
    for w, g in zip(now, gradients, strict=True):
        torch.testing.assert_close(w.grad, g + 0.25, rtol=1e-12, atol=1e-14)


def test_gradient_leaves_weights_and_start_alone() -> None:
    now, start = lists()
    before = [t.detach().clone() for t in (*now, *start)]
    for w in now:
        w.grad = torch.zeros_like(w)
    add_l2sp_gradient(now, start, 1.0)
    pairs = zip((*now, *start), before, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "only gradients may change"


def test_weights_without_a_gradient_are_left_alone_and_the_others_meet_their_own_start() -> None:
    now, start = lists()
    now[2].grad = torch.zeros_like(now[2])
    add_l2sp_gradient(now, start, 2.0)
    assert now[0].grad is None and now[1].grad is None
    torch.testing.assert_close(now[2].grad, 2.0 * (now[2] - start[2]).detach())


def test_penalty_is_zero_at_the_start_and_for_no_weights() -> None:
    _, start = lists()
    assert l2sp_penalty(start, start, 5.0).item() == 0.0
    assert l2sp_penalty([], [], 5.0).item() == 0.0
    add_l2sp_gradient([], [], 5.0)
    pull_towards([], [], 0.1)


def test_strength_zero_does_not_touch_the_gradients_bits() -> None:
    now, start = lists()
    for w in now:
        w.grad = torch.full_like(w, -0.0)
    add_l2sp_gradient(now, start, 0.0)
    assert all(torch.signbit(w.grad).all() for w in now), "−0 turned into 0: something was added"


def test_pull_takes_back_the_given_share_of_the_drift() -> None:
    now, start = lists()
    expected = [w.detach() - 0.2 * (w.detach() - s) for w, s in zip(now, start, strict=True)]
    pull_towards(now, start, 0.2)
    for w, e in zip(now, expected, strict=True):
        torch.testing.assert_close(w.detach(), e, rtol=1e-12, atol=1e-14)


def test_pull_rests_bit_for_bit_at_the_start() -> None:
    _, start = lists(torch.float32)
    now = [s.clone().requires_grad_() for s in start]
    pull_towards(now, start, 0.3)
    assert all(torch.equal(w, s) for w, s in zip(now, start, strict=True))


def test_pull_towards_zero_is_adamws_weight_decay() -> None:
    now, start = lists()
    other = [w.detach().clone().requires_grad_() for w in now]
    ours = torch.optim.AdamW(now, lr=0.03, weight_decay=0.0)
    theirs = torch.optim.AdamW(other, lr=0.03, weight_decay=0.7)
    for step in range(5):
        for group in (now, other):
            for i, w in enumerate(group):
                w.grad = torch.sin(w.detach() + step + i)
        pull_towards(now, [torch.zeros_like(s) for s in start], 0.03 * 0.7)
        ours.step()
        theirs.step()
    for w, v in zip(now, other, strict=True):
        torch.testing.assert_close(w, v, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_distance_over_many_weights_is_exact(dtype: torch.dtype) -> None:
    """Of an embedding table: a sum in single precision is off by percents there, and differences in half precision too."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4000, 768, generator=generator).mul_(0.02).to(dtype)
    weight = (start.float() + torch.randn(4000, 768, generator=generator).mul_(1e-3)).to(dtype)
    vector = torch.full((3,), 2.0, dtype=dtype)
    wanted = np.square(weight.double().numpy() - start.double().numpy()).sum() + 4.0 * 3
    found = float(squared_distance([weight, vector], [start, torch.zeros_like(vector)]))
    assert found == pytest.approx(wanted, rel=1e-7), f"{found / wanted - 1:+.1e} off"
    of_all = np.square(weight.double().numpy()).sum()
    assert float(squared_distance([weight], None)) == pytest.approx(of_all, rel=1e-7)
    turned = weight.T[:, ::2]  # not contiguous
    assert float(squared_distance([turned], None)) == pytest.approx(np.square(turned.double().numpy()).sum(), rel=1e-7)


def test_a_gradient_in_pieces_is_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit: for large tensors, small ones together, tensors in another order in memory, and frozen ones."""
    generator = torch.Generator().manual_seed(0)

    def made(seed: int) -> list[Tensor]:
        generator.manual_seed(seed)
        whole = [torch.randn(shape, generator=generator) for shape in ((40, 7), (3,), (2, 5), (1,), (0, 4), (90,))]
        return [*whole, torch.randn(12, 11, generator=generator).T]

    def gradients(piece: int) -> list[Tensor | None]:
        monkeypatch.setattr(weight_space, "PIECE", piece)
        weights = [w.requires_grad_() for w in made(0)]
        for weight, grad in zip(weights, made(2), strict=True):
            weight.grad = grad
        weights[2].grad = None
        add_l2sp_gradient(weights, made(1), 0.3)
        add_fisher_gradient(weights, made(1), made(3), 0.7)
        return [w.grad for w in weights]

    whole = gradients(1 << 20)
    for piece in (1, 8, 64):
        for found, wanted in zip(gradients(piece), whole, strict=True):
            assert (found is None and wanted is None) or torch.equal(found, wanted)  # type: ignore[arg-type]
