"""The test of calibration errors: against sums by hand, and how often it is wrong where the plain bootstrap fails."""

from typing import Any

import numpy as np
import pytest

from sft_lightning.gate.chosen_test import drawn
from sft_lightning.stats.on_samples import paired, resampled
from sft_lightning.stats.sums_of_gaps import sums_of_gaps

ALPHA, BINS = 0.05, 15


def gaps(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`[N, BINS]`."""
    held = np.zeros((len(confidence), BINS))
    held[np.arange(len(confidence)), (confidence * BINS).astype(int)] = confidence - right
    return held


def models(random: np.random.Generator, n: int, wrong: tuple[float, float], apart: float = 0.3) -> list[np.ndarray]:
    """Gaps of two models whose confidence is too high by `wrong` each; `apart` is how much their confidences differ."""
    z, u, made = random.normal(size=n), random.random(n), []
    for more in wrong:
        confidence = np.clip(1 / (1 + np.exp(-(1.2 + z + apart * random.normal(size=n)))), 0.1, 0.9999)
        made.append(gaps(confidence, (u < np.clip(confidence - more, 0, 1)).astype(float)))
    return made


def error(held: np.ndarray) -> float:
    return float(np.abs(held.mean(0)).sum())


def test_values_are_those_by_hand_and_the_interval_holds_them() -> None:
    one, other = models(np.random.default_rng(0), 500, (0.0, 0.1))
    by_hand = []
    for held in (one, other):
        bins = [sum(row[b] for row in held.tolist()) / 500 for b in range(BINS)]
        by_hand.append(sum(map(abs, bins)))
    found = sums_of_gaps(one, other, drawn(500, 300), -0.02, ALPHA)
    assert found.value == pytest.approx(by_hand[1] - by_hand[0]) and found.low < found.value < found.high
    assert found.n == 500 and found.p_above <= ALPHA < found.p_below, "the first is better, by about 0.1 less"
    alone = sums_of_gaps(other, None, drawn(500, 300), -0.2, ALPHA)
    assert alone.value == pytest.approx(-by_hand[1]) and alone.p_above <= ALPHA
    assert sums_of_gaps(other, None, drawn(500, 300), -0.01, ALPHA).p_below <= ALPHA


def test_equal_models_differ_by_nothing_and_a_small_difference_needs_more_samples() -> None:
    one, other = models(np.random.default_rng(1), 400, (0.02, 0.02))
    same = sums_of_gaps(one, one, drawn(400, 200), -0.01, ALPHA)
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-12) and same.p_above <= ALPHA
    few = sums_of_gaps(one, other, drawn(400, 200), -0.03, ALPHA)
    assert few.p_above > ALPHA and few.p_below > ALPHA and few.needed is not None and few.needed > 400


@pytest.mark.slow
@pytest.mark.parametrize("n", [200, 1000])
@pytest.mark.parametrize("wrong", [(0.0, 0.0), (0.0, 0.1), (0.1, 0.0), (0.03, 0.0), (0.0, 0.03), (0.05, -0.05)])
def test_a_gate_at_the_margin_is_wrong_at_most_as_often_as_stated(n: int, wrong: tuple[float, float]) -> None:
    random, gates = np.random.default_rng(0), 300
    first, second = (error(held) for held in models(random, 400_000, wrong))
    rates, plain = np.zeros(2), np.zeros(2)
    for _ in range(gates):
        one, other = models(random, n, wrong)
        draws = random.multinomial(n, np.full(n, 1 / n), 150).astype(float)
        found: Any = sums_of_gaps(one, other, draws, second - first, ALPHA)
        rates += (found.p_above <= ALPHA, found.p_below <= ALPHA)
        of_draws = [-np.abs(draws @ held).sum(1) / n for held in (one, other)]
        naive = resampled(error(other) - error(one), of_draws[0] - of_draws[1], n, second - first, ALPHA)
        plain += (naive.p_above <= ALPHA, naive.p_below <= ALPHA)
    assert (rates / gates <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / gates) ** 0.5).all(), rates / gates
    if n == 1000 and max(wrong) == 0.1:
        assert max(plain / gates) > 0.3, "the plain bootstrap would do"


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 1000])
def test_a_gate_of_brier_scores_at_the_margin_is_wrong_about_as_often_as_stated(n: int) -> None:
    random, gates, rates = np.random.default_rng(0), 2000, np.zeros(2)

    def scores(size: int) -> list[np.ndarray]:
        """Brier scores of two classes; the second model is too sure of itself."""
        z, u = random.normal(size=size), random.random(size)
        p = 1 / (1 + np.exp(-z))
        said = 1 / (1 + np.exp(-np.array([1.0, 1.5])[:, None] * z + 0.2 * random.normal(size=(2, size))))
        return [2 * (of - (u < p)) ** 2 for of in said]

    first, second = (float(held.mean()) for held in scores(2_000_000))
    for _ in range(gates):
        one, other = scores(n)
        found = paired(-one, -other, second - first, ALPHA)
        rates += (found.p_above <= ALPHA, found.p_below <= ALPHA)
    assert (rates / gates <= ALPHA + 3 * (ALPHA * (1 - ALPHA) / gates) ** 0.5 + 0.005).all(), rates / gates
