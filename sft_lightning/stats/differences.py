"""Tests paired differences from the baseline over seeds, with intervals and the seeds needed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.stats.correction import MOST_SEEDS, correct, seeds_needed
from sft_lightning.stats.summary import RESAMPLES, ROUNDING, UNBOUNDED, Array, Values, t_interval

FEWEST = 3
"""fewest pairs of a test"""
NOT_SHOWN = "no difference shown"


@dataclass(frozen=True)
class Difference:
    """One arm's difference from the baseline in one metric, paired by seed. In the metric's own unit; None if undefined."""

    arm: str
    n: int
    """seeds with a value for both arms"""
    dropped: int
    """seeds with a value for only one of the two arms"""
    mean: float | None
    """mean of arm − baseline, whichever direction is better"""
    std: float | None
    """sample standard deviation of the differences; 0 if they are all equal"""
    low: float | None
    """lower end of Student's t interval of the mean difference, for this comparison alone"""
    high: float | None
    low_corrected: float | None
    """the same, widened for the number of tests: excludes 0 exactly if `p_corrected` is at most 1 − level"""
    high_corrected: float | None
    test: str
    """name of the test that gave `p`, or the reason for no test"""
    p: float | None
    """two-sided p of this test alone"""
    p_corrected: float | None
    """p corrected for all tests of the family"""
    p_sign_flip: float | None
    """two-sided p of the sign-flip test, which needs no normal distribution: a check on `p`"""
    p_sign_flip_smallest: float | None
    """smallest p that a sign-flip test can give with n pairs: 2 / 2ⁿ"""
    effect_size: float | None
    """Cohen's d_z: mean / std"""
    verdict: str
    """'better', 'worse' or 'no difference shown', by `p_corrected`"""
    seeds_needed: int | None
    """seeds for 80 % power at the corrected level if the true effect equals the observed one; None if a difference is shown,
    the effect is 0, there are fewer than three pairs, or more than 10,000 seeds are needed"""
    note: str | None
    """a caution about the numbers, for the reader"""


def compare_with_baseline(
    values: Values,
    baseline: str,
    better: str = "max",
    level: float = 0.95,
    correction: str = "holm",
    bounds: tuple[float, float] = UNBOUNDED,
) -> list[Difference]:
    """Tests each other arm's paired difference from the baseline, and corrects over the arms.

    The test is the paired t-test. It uses the sizes of the differences, and is the only common test that can show anything
    with three to five seeds; in return, it assumes normal differences. Differences of two arms with the same seeds are more
    nearly symmetric than the values, which is what the t-test needs most. The exact sign-flip test is reported as a check:
    it assumes only symmetry, but its p is at least 2 / 2ⁿ, so it cannot reach 0.05 with five seeds or fewer. If all
    differences are equal, the t-test has no spread to use, and p is that of the sign-flip test. Below three pairs there is
    no test.

    Args:
        values: arm → seed → value. None, NaN and infinities are unknown; their pairs are dropped and counted.
        baseline: name of the arm that the others are compared with.
        better: 'max' or 'min'.
        level: of confidence; a verdict needs a corrected p of at most 1 − level.
        correction: correction over the arms: 'holm', 'bonferroni' or 'none'.
        bounds: lowest and highest possible difference; intervals are cut there.

    Raises:
        UserError: an unknown baseline, correction or `better`.
    """
    found = raw_differences(values, baseline, level, bounds)
    p = correct([d.p for d in found], correction)
    family = 1 if correction == "none" else sum(d.p is not None for d in found)
    return [conclude(d, p_c, family, better, level, bounds) for d, p_c in zip(found, p, strict=True)]


def raw_differences(
    values: Values, baseline: str, level: float, bounds: tuple[float, float] = UNBOUNDED
) -> list[Difference]:
    """The differences with their own p, before correction and verdict; in the order of `values`."""
    if baseline not in values:
        raise UserError(
            "baseline",
            f"there is no arm '{baseline}'{nearest(baseline, values)}",
            f"use one of {', '.join(values)}" if values else "",
        )
    return [_raw(arm, values[arm], values[baseline], level, bounds) for arm in values if arm != baseline]


def conclude(
    d: Difference, p_corrected: float | None, family: int, better: str, level: float, bounds: tuple[float, float]
) -> Difference:
    """The difference with its verdict, corrected interval and seeds needed; `family` tests are corrected together."""
    if better not in ("max", "min"):
        raise UserError("better", f"'{better}' is unknown", "use max or min")
    if d.p is None or p_corrected is None or d.mean is None or d.std is None:
        return d
    alpha = 1 - level
    shown = p_corrected <= alpha
    verdict = ("better" if (d.mean > 0) == (better == "max") else "worse") if shown else NOT_SHOWN
    low = high = None
    if d.std > 0:
        own = alpha * d.p / p_corrected if shown and d.p > 0 else alpha / family
        low, high = t_interval(d.mean, d.std, d.n, 1 - own, bounds)
    needed = None if shown else _needed(d, alpha / family)
    return replace(
        d, p_corrected=p_corrected, verdict=verdict, low_corrected=low, high_corrected=high, seeds_needed=needed
    )


def paired(arm: Mapping[int, float | None], base: Mapping[int, float | None]) -> tuple[Array, int, float]:
    """Returns (differences arm − base of common seeds, ascending; number of other seeds; largest absolute value)."""
    a, b = ({s: v for s, v in x.items() if v is not None and math.isfinite(v)} for x in (arm, base))
    common = a.keys() & b.keys()
    differences = np.sort(np.array([a[s] - b[s] for s in common], dtype=float))
    largest = max((max(abs(a[s]), abs(b[s])) for s in common), default=0.0)
    return differences, len((arm.keys() | base.keys()) - common), largest


def is_constant(differences: Array, largest: float) -> bool:
    """Whether all differences are equal up to the values' rounding."""
    return bool(np.ptp(differences) <= ROUNDING * largest)


def _raw(
    arm: str,
    values: Mapping[int, float | None],
    base: Mapping[int, float | None],
    level: float,
    bounds: tuple[float, float],
) -> Difference:
    x, dropped, largest = paired(values, base)
    n = len(x)
    mean = float(np.mean(x)) if n else None
    d = Difference(
        arm, n, dropped, mean, None, None, None, None, None, f"none: fewer than {FEWEST} pairs", None, None, None, None,
        None, NOT_SHOWN, None, None,
    )  # fmt: skip
    if n < 2 or mean is None:
        return d
    constant = is_constant(x, largest)
    if constant and abs(mean) <= ROUNDING * largest:
        mean = 0.0
    std = 0.0 if constant else float(np.std(x, ddof=1))
    low, high = (None, None) if constant else t_interval(mean, std, n, level, bounds)
    d = replace(d, mean=mean, std=std, low=low, high=high, effect_size=None if constant else mean / std)
    if n < FEWEST:
        return d
    smallest = 2 / 2**n
    flip = (smallest if mean else 1.0) if constant else _sign_flip(x)
    if constant:
        d = replace(d, test="sign-flip, as all differences are equal", p=flip)
    else:
        d = replace(d, test="paired t-test", p=float(2 * stats.t.sf(abs(mean) / std * math.sqrt(n), n - 1)))
    return replace(d, p_sign_flip=flip, p_sign_flip_smallest=smallest, note=_note(d, smallest, 1 - level))


def _sign_flip(x: Array) -> float:
    """Two-sided p of the sign-flip test of a mean of 0: exact up to 13 pairs, else from 9,999 draws with a fixed seed."""
    found = stats.permutation_test(
        (x,), np.mean, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, rng=np.random.default_rng(0)
    )
    return float(found.pvalue)


def _note(d: Difference, smallest: float, alpha: float) -> str | None:
    if d.std == 0:
        return f"all {d.n} differences are equal: the t-test has nothing to go by"
    if smallest > alpha:
        return (
            f"with {d.n} pairs a test without the assumption of normal differences cannot go below p = {smallest:.2g}: "
            "the verdict rests on that assumption"
        )
    return None


def _needed(d: Difference, alpha: float) -> int | None:
    """Seeds that would detect the observed difference at level `alpha`; more than there are now."""
    if not d.mean:
        return None
    if not d.std:  # constant: the sign-flip test's smallest p must reach the level
        return max(math.ceil(1 - math.log2(alpha)), d.n + 1)
    needed = seeds_needed(d.mean / d.std, alpha)
    return None if needed is None else min(max(needed, d.n + 1), MOST_SEEDS)
