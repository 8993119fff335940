"""Corrects p values for several tests, and computes how many seeds a difference needs."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats  # type: ignore[import-untyped]
from statsmodels.stats.power import TTestPower  # type: ignore[import-untyped]

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.stats.summary import Array

CORRECTIONS = ("holm", "bonferroni", "none")
POWER = 0.8
MOST_SEEDS = 10_000


def correct(p: Sequence[float | None], correction: str = "holm", at_most: int | None = None) -> list[float | None]:
    """Corrects p values together, so that the chance of any false claim among them stays below the level.

    Tests that were not made (None) stay None and do not count.

    Args:
        p: one p value per test.
        correction: 'holm', 'bonferroni' or 'none'.
        at_most: number of hypotheses that can be true at once; None for all. If it is below the number of tests, 'holm' becomes
            Shaffer's first step-down procedure (J. P. Shaffer, JASA 81, 1986), which differs from Holm's only in that number.

    Raises:
        UserError: an unknown correction.
    """
    if correction not in CORRECTIONS:
        raise UserError(
            "correction",
            f"'{correction}' is unknown{nearest(correction, CORRECTIONS)}",
            f"use one of {', '.join(CORRECTIONS)}",
        )
    made = [i for i, value in enumerate(p) if value is not None]
    values = np.array([v for v in p if v is not None], dtype=float)
    if not made or correction == "none":
        return list(p)
    most = len(made) if at_most is None else min(at_most, len(made))
    adjusted = _step_down(values, most) if correction == "holm" else np.minimum(values * most, 1.0)
    found: list[float | None] = [None] * len(p)
    for i, value in zip(made, adjusted, strict=True):
        found[i] = float(value)
    return found


def _step_down(p: Array, at_most: int) -> Array:
    """Adjusted p [tests]: the j-th smallest p times the number of hypotheses that may still be true, made non-decreasing.

    statsmodels' multipletests has no `at_most`; without it, both are equal, as a test checks.
    """
    order = np.argsort(p, kind="stable")
    may_be_true = np.minimum(len(p) - np.arange(len(p)), at_most)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * may_be_true), 1.0)
    return adjusted


def seeds_needed(effect: float, alpha: float, power: float = POWER, most: int = MOST_SEEDS) -> int | None:
    """Smallest number of pairs, from 3 to `most`, with which a paired t-test detects `effect` with probability `power`.

    The power is that of statsmodels' TTestPower for normal differences, two-sided at `alpha`; only detections in the effect's
    own direction count. Its `solve_power` is not used, as it is far off for large effects, where the other tail's power is NaN.

    Args:
        effect: mean difference over its standard deviation (Cohen's d_z), with either sign.
        alpha: level of the single test, after correction.
        power: wanted probability of detection.
        most: largest number of seeds; the result is None if more are needed, or if the effect is 0.
    """
    if effect == 0:
        return None

    def enough(n: int) -> bool:
        return _power(abs(effect), n, alpha) >= power

    high = 3
    while not enough(high):
        if high == most:
            return None
        high = min(2 * high, most)
    low = max(high // 2, 3)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def _power(effect: float, n: int, alpha: float) -> float:
    """Power of the two-sided paired t-test in the effect's own direction."""
    found = float(TTestPower().power(effect, n, alpha / 2, alternative="larger"))
    if math.isfinite(found):
        return found
    return float(effect * math.sqrt(n) > stats.t.isf(alpha / 2, n - 1))  # scipy's nct returns NaN far out in a tail
