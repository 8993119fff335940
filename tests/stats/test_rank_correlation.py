"""Rank correlation against ranks counted by hand, and the gauges of a study that was made before."""

import math

import numpy as np
import pytest

from sft_lightning.stats.rank_correlation import rank_correlations


def by_hand(x: list[float], y: list[float]) -> float:
    """Pearson's correlation of ranks, where equal values share their mean rank."""
    ranks = [[sum(v < w for v in values) + (sum(v == w for v in values) + 1) / 2 for w in values] for values in (x, y)]
    return float(np.corrcoef(*ranks)[0, 1])


def test_it_is_the_correlation_of_ranks() -> None:
    kept = {"a": 0.9, "b": 0.7, "c": 0.9, "d": 0.2, "e": 0.5}
    gauges = {
        "kl": {"a": 0.1, "b": 0.4, "c": 0.2, "d": 9.0, "e": 0.4},
        "some": {"a": 1.0, "b": 2.0, "d": 3.0, "e": math.nan},
        "equal": dict.fromkeys(kept, 1.0),
        "two": {"a": 1.0, "b": 2.0},
    }
    found = rank_correlations(kept, gauges)
    assert found["kl"].rho == pytest.approx(by_hand(list(kept.values()), list(gauges["kl"].values())))
    assert found["some"].rho == pytest.approx(by_hand([0.9, 0.7, 0.2], [1.0, 2.0, 3.0])) == -1
    assert [found[name].n for name in gauges] == [5, 3, 5, 2]
    assert found["equal"].rho is None and found["two"].rho is None
