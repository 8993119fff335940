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


def test_too_little_to_compare_is_nan() -> None:
    assert CKASums().value().isnan()
    assert linear_cka(torch.ones(1, 3), torch.ones(1, 3)).isnan()
    assert linear_cka(torch.ones(5, 3), torch.randn(5, 3)).isnan()
