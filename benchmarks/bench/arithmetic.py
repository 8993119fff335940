"""The arithmetic of the results: medians, spread, ratios within rounds, and whether a measurement is too noisy."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

QUIET = 0.03
"""Largest distance from 1 of two identical arms' ratio"""


@dataclass(frozen=True)
class Spread:
    """Median of n values, and their quartiles."""

    median: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def quantile(values: Sequence[float], share: float) -> float:
    """Interpolates linearly between the sorted values; `share` in [0, 1]."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles. Raises ValueError for no value."""
    if not values:
        raise ValueError("no value was measured")
    return Spread(float(median(values)), quantile(values, 0.25), quantile(values, 0.75), len(values))


def ratios(values: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """One ratio a round. Both arms ran in each round, so a slow moment of the machine is in both."""
    return [value / base for value, base in zip(values, baseline, strict=True)]


def ratio(values: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Median and quartiles of the rounds' ratios."""
    return spread(ratios(values, baseline))


@dataclass(frozen=True)
class Noise:
    """The A/A control: how far from 1 the ratio of two identical arms is."""

    ratio: float
    low: float
    high: float

    @property
    def off(self) -> float:
        """Distance of the median from 1."""
        return abs(self.ratio - 1)

    @property
    def too_noisy(self) -> bool:
        return self.off > QUIET

    @property
    def verdict(self) -> str:
        return "too noisy" if self.too_noisy else "quiet"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def noise(again: Sequence[float], baseline: Sequence[float]) -> Noise:
    """The verdict on a measurement from the values of its two identical arms."""
    found = ratio(again, baseline)
    return Noise(found.median, found.low, found.high)


def largest_difference(losses: Sequence[float], expected: Sequence[float]) -> float:
    """Largest |loss − expected| / |expected| over steps; infinite if the numbers of steps differ."""
    if len(losses) != len(expected):
        return float("inf")
    worst = 0.0
    for loss, reference in zip(losses, expected, strict=True):
        off = abs(loss - reference) / (abs(reference) or 1.0)
        worst = max(worst, off if off == off else float("inf"))
    return worst
