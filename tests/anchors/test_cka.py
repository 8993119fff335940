"""Linear CKA against its definition on centred Gram matrices (Kornblith et al. 2019, eq. 1 and 3)."""

import numpy as np
import pytest
import torch

from sft_lightning.anchors import CKASums, linear_cka


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L)) with K = XXᵀ, L = YYᵀ."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def features(items: int = 60, dims: int = 7, other: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(items, dims, generator=generator, dtype=torch.float64) + 3.0
    return x, x @ torch.randn(dims, other, generator=generator, dtype=torch.float64) + torch.randn(
        items, other, generator=generator, dtype=torch.float64
    )


def test_value_is_the_definition() -> None:
    x, y = features()
    assert linear_cka(x, y).item() == pytest.approx(by_definition(x.numpy(), y.numpy()), rel=1e-10)


def test_pieces_and_ranks_add_up_to_the_whole() -> None:
    x, y = features()
    one, two = CKASums(), CKASums()
    for part, (a, b) in ((one, (0, 7)), (one, (7, 8)), (two, (8, 60)), (two, (60, 60))):
        part.add(x[a:b], y[a:b])
    one.tensors = [p + q for p, q in zip(one.tensors, two.tensors, strict=True)]
    assert one.value().item() == pytest.approx(linear_cka(x, y).item(), rel=1e-12)


def test_rotation_and_scale_and_shift_do_not_matter_and_a_linear_map_does() -> None:
    x, y = features()
    rotation = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert linear_cka(x, 5 * x @ rotation - 2).item() == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(x, y).item() < 0.99


def test_unrelated_features_are_little_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4000, 4, generator=generator), torch.randn(4000, 4, generator=generator)
    assert linear_cka(x, y).item() < 0.02


def by_unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, eq. 5, on Gram matrices whose diagonals are 0."""
    n, one = len(x), np.ones(len(x))
    grams = [(f @ f.T) * (1 - np.eye(n)) for f in (x, y)]

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        rows = 2 / (n - 2) * (one @ k @ m @ one)
        return float(np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - rows) / (n * (n - 3))

    k, m = grams
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize("items", [5, 60])
def test_the_debiased_value_is_that_of_the_unbiased_estimates(items: int) -> None:
    x, y = features(items)
    sums = CKASums()
    for a, b in ((0, 3), (3, items)):
        sums.add(x[a:b], y[a:b])
    assert sums.debiased().item() == pytest.approx(by_unbiased_hsic(x.numpy(), y.numpy()), rel=1e-9)


def test_unrelated_features_of_few_items_look_alike_but_for_the_debiased_value() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 384, generator=generator), torch.randn(60, 384, generator=generator)
    sums, same = CKASums(), CKASums()
    sums.add(x, y)
    same.add(x, x)
    assert sums.value().item() == pytest.approx(384 / (60 + 384), abs=0.02), "the usual value is biased by d/(n+d)"
    assert abs(sums.debiased().item()) < 0.02
    assert same.debiased().item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("level", [1.0, 0.1, 3e-5, -1234.567, 0.0])
def test_constant_features_are_like_nothing(level: float, dtype: torch.dtype) -> None:
    varying = torch.randn(300, 7, generator=torch.Generator().manual_seed(0))
    constant = torch.full((300, 5), level, dtype=dtype)
    noisy = constant.double() * (1 + 1e-7 * varying[:, :5])  # one constant, computed in batches of other sizes
    for features in (constant, noisy):
        for x, y in ((features, varying), (varying, features), (features, features)):
            sums = CKASums()
            for a in range(0, 300, 7):
                sums.add(x[a : a + 7], y[a : a + 7])
            assert sums.value().isnan() and sums.debiased().isnan(), f"{sums.value()} for features that say nothing"


def test_features_of_a_large_mean_and_equal_ones_are_never_more_than_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    for mean in (0.0, 1.0, 100.0, 1e4):
        x = torch.randn(200, 6, generator=generator, dtype=torch.float64) + mean
        for y in (x, 3 * x, x.roll(1, 1)):
            value = linear_cka(x, y).item()
            assert value <= 1.0 and value == pytest.approx(1.0, abs=1e-6), f"{value} at a mean of {mean}"


def test_too_little_to_compare_is_nan() -> None:
    assert CKASums().value().isnan()
    assert linear_cka(torch.ones(1, 3), torch.ones(1, 3)).isnan()
    assert linear_cka(torch.ones(5, 3), torch.randn(5, 3)).isnan()
