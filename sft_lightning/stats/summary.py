"""Summarises one arm's values over seeds: mean, standard deviation and interval."""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

Values = Mapping[str, Mapping[int, float | None]]
"""Arm → seed → value of one metric. None, NaN and infinities are unknown."""

Array = NDArray[np.float64]
ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""A spread below this share of the values counts as rounding of single precision, not as a spread."""
RESAMPLES = 9_999
UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Summary:
    """Summary of one arm's values over seeds. In the metric's own unit; None if undefined."""

    n: int
    """number of known values"""
    missing: int
    """number of unknown values"""
    mean: float | None
    std: float | None
    """sample standard deviation (n − 1); None below two values"""
    low: float | None
    """lower end of the shown interval of the mean: Student's t"""
    high: float | None
    method: str
    """name of the shown interval, or the reason for no interval"""
    bootstrap_low: float | None
    """lower end of the BCa bootstrap interval, an addition to the shown one; None below three values"""
    bootstrap_high: float | None


def summarise(values: Iterable[float | None], level: float = 0.95, bounds: tuple[float, float] = UNBOUNDED) -> Summary:
    """Mean, sample standard deviation and interval of the mean; the order of the values does not matter.

    The shown interval is Student's t. The bootstrap interval (BCa, scipy, always the same 9,999 resamples) is added. At 95 %
    with 3, 5 and 10 seeds, about 95 % of the t intervals of normal values or accuracies contain the true mean, but only about
    73, 84 and 90 % of the bootstrap intervals, which are too narrow for few seeds: `tests/stats/test_statistics_simulated.py`.
    For very skewed values (log-normal), both contain it in about 85 % at 10 seeds.

    One value has no interval. Equal values have none either: if a few seeds agree, others may still differ.

    Args:
        values: one value per seed; None, NaN and infinities are counted as missing and left out.
        level: of confidence, between 0 and 1.
        bounds: lowest and highest possible mean, such as (0, 1) for an accuracy; the intervals are cut there.
    """
    given = list(values)
    x = present(given)
    n, missing = len(x), len(given) - len(x)
    if n == 0:
        return Summary(0, missing, None, None, None, None, "no interval: no value is known", None, None)
    mean = float(np.mean(x))
    if n == 1:
        return Summary(1, missing, mean, None, None, None, "no interval: one value has no spread", None, None)
    if np.ptp(x) <= ROUNDING * float(np.max(np.abs(x))):
        return Summary(n, missing, mean, 0.0, None, None, f"no interval: all {n} values are equal", None, None)
    std = float(np.std(x, ddof=1))
    low, high = t_interval(mean, std, n, level, bounds)
    b_low, b_high = _bootstrap(x, level) if n >= 3 else (None, None)
    return Summary(n, missing, mean, std, low, high, f"Student's t, {n - 1} degrees of freedom", b_low, b_high)


def present(values: Iterable[float | None]) -> Array:
    """The finite values, ascending."""
    return np.sort(np.array([v for v in values if v is not None and math.isfinite(v)], dtype=float))


def t_interval(
    mean: float, std: float, n: int, level: float, bounds: tuple[float, float] = UNBOUNDED
) -> tuple[float, float]:
    """Student's t interval of a mean of n ≥ 2 values with sample standard deviation `std`, cut at `bounds`."""
    half = float(stats.t.isf((1 - level) / 2, n - 1)) * std / math.sqrt(n)
    return max(mean - half, bounds[0]), min(mean + half, bounds[1])


def _bootstrap(x: Array, level: float) -> tuple[float | None, float | None]:
    """BCa interval of the mean; the percentile interval if scipy cannot compute BCa, as for nearly equal values."""
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (x,),
                np.mean,
                n_resamples=RESAMPLES,
                confidence_level=level,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            return float(found.low), float(found.high)
    return None, None
