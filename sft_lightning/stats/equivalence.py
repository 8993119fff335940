"""Tests whether an arm does as well as the baseline to within a margin, by two one-sided tests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.stats.correction import correct, seeds_needed
from sft_lightning.stats.differences import FEWEST, Difference, is_constant, paired
from sft_lightning.stats.summary import Values


@dataclass(frozen=True)
class Equivalence:
    """One arm's equivalence tests against the baseline. p values are one-sided; None below three pairs."""

    arm: str
    n: int
    margin: float
    """in the metric's own unit"""
    p_not_worse: float | None
    """p of the hypothesis that the arm is worse than the baseline by the margin or more"""
    p_not_better: float | None
    """p of the hypothesis that the arm is better than the baseline by the margin or more"""
    p: float | None
    """p of both (TOST): the larger of the two"""
    p_not_worse_corrected: float | None
    p_corrected: float | None
    """`p_not_worse` and `p`, corrected for all tests of the family"""
    verdict: str
    """'equivalent' (within the margin either way), 'as good' (not worse by the margin; perhaps better) or 'not shown'"""
    seeds_needed: int | None = None
    """seeds that show with 80 % power that the arm is not worse by the margin, if the true difference equals the observed one;
    None if that is shown, the observed loss exceeds the margin, there are fewer than three pairs, or more than 10,000 seeds
    are needed"""


def equivalence(
    values: Values, baseline: str, margin: float, better: str = "max", level: float = 0.95, correction: str = "holm"
) -> list[Equivalence]:
    """Makes two one-sided paired t-tests at ± `margin` for each other arm (Schuirmann, 1987), corrected over the arms.

    If all differences are equal, the t-test has no spread to use, and p is that of the one-sided sign-flip test, 1 / 2ⁿ.

    Args:
        values: arm → seed → value; None, NaN and infinities are unknown.
        baseline: name of the arm that the others are compared with.
        margin: margin above 0, in the metric's own unit.
        better: 'max' or 'min'.
        level: of confidence; a verdict needs a corrected p of at most 1 − level.
        correction: 'holm', 'bonferroni' or 'none'. At most one of an arm's two hypotheses is true. So both sides of all arms
            form one family in which at most as many hypotheses are true as there are arms.

    Raises:
        UserError: an unknown baseline or correction, a margin that is not above 0, or an unknown `better`.
    """
    found = raw_equivalence(values, baseline, margin, better)
    sides = [e.p_not_worse for e in found] + [e.p_not_better for e in found]
    p = correct(sides, correction, at_most=sum(e.p is not None for e in found))
    return [conclude(e, p[i], p[i + len(found)], level) for i, e in enumerate(found)]


def raw_equivalence(values: Values, baseline: str, margin: float, better: str) -> list[Equivalence]:
    """The tests with their own p, before correction and verdict; in the order of `values`."""
    if not (math.isfinite(margin) and margin > 0):
        raise UserError("within", f"the margin must be above 0, got {margin}")
    if baseline not in values:
        raise UserError(
            "baseline",
            f"there is no arm '{baseline}'{nearest(baseline, values)}",
            f"use one of {', '.join(values)}" if values else "",
        )
    if better not in ("max", "min"):
        raise UserError("better", f"'{better}' is unknown", "use max or min")
    sign = 1 if better == "max" else -1
    return [_raw(arm, values[arm], values[baseline], margin, sign) for arm in values if arm != baseline]


def conclude(e: Equivalence, not_worse: float | None, not_better: float | None, level: float) -> Equivalence:
    """The tests with their corrected p values and verdict."""
    if not_worse is None or not_better is None:
        return e
    both = max(not_worse, not_better)
    verdict = "equivalent" if both <= 1 - level else "as good" if not_worse <= 1 - level else "not shown"
    return replace(e, p_not_worse_corrected=not_worse, p_corrected=both, verdict=verdict)


def settle(found: list[Equivalence], differences: Sequence[Difference], better: str, level: float) -> list[Equivalence]:
    """The tests with `seeds_needed`, at a level divided by the number of arms; `differences` are those of the target."""
    by_arm, alpha = {d.arm: d for d in differences}, (1 - level) / max(1, len(found))
    return [replace(e, seeds_needed=_seeds(e, by_arm.get(e.arm), better, alpha)) for e in found]


def _seeds(e: Equivalence, d: Difference | None, better: str, alpha: float) -> int | None:
    if d is None or d.mean is None or d.std is None or e.verdict != "not shown" or d.n < FEWEST:
        return None
    above = (d.mean if better == "max" else -d.mean) + e.margin  # how far inside the margin the arm was seen
    if above <= 0:
        return None
    if not d.std:
        return max(math.ceil(-math.log2(alpha)), d.n + 1)
    needed = seeds_needed(above / d.std, 2 * alpha)  # `seeds_needed` is for two-sided tests
    return None if needed is None else max(needed, d.n + 1)


def _raw(
    arm: str, values: Mapping[int, float | None], base: Mapping[int, float | None], margin: float, sign: int
) -> Equivalence:
    x, _, largest = paired(values, base)
    n, x = len(x), sign * x
    if n < FEWEST:
        return Equivalence(arm, n, margin, None, None, None, None, None, "not shown")
    mean = float(np.mean(x))
    if is_constant(x, largest):
        worse, better = (0.5**n if inside else 1.0 for inside in (mean > -margin, mean < margin))
    else:
        error = float(np.std(x, ddof=1)) / math.sqrt(n)
        worse = float(stats.t.sf((mean + margin) / error, n - 1))
        better = float(stats.t.cdf((mean - margin) / error, n - 1))
    return Equivalence(arm, n, margin, worse, better, max(worse, better), None, None, "not shown")
