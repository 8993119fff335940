"""Chooses a point of a path on validation: the one that learned most, or the one that kept most within a margin of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sft_lightning.core.metric_info import MetricInfo

ROUNDING = 1e-9
"""Two values of a metric that differ by less count as equal"""


@dataclass(frozen=True)
class Point:
    """A point of a path, and what was measured there on validation."""

    alpha: float
    values: Mapping[str, float]
    counts: Mapping[str, int] = field(default_factory=dict)
    """Numbers of samples behind the values, by column: val, retention, drift"""


@dataclass(frozen=True)
class Rule:
    """How a point is chosen."""

    learned: MetricInfo
    """The target's metric"""
    kept: MetricInfo
    """The metric of what was kept"""
    margin: float | None = None
    """How much worse than the best the target's metric may be, in its unit; None chooses by the target's metric alone"""

    @property
    def words(self) -> str:
        """The rule in one phrase."""
        if self.margin is None:
            return f"the best {self.learned.name}"
        worse = "below" if self.learned.better == "max" else "above"
        return f"the best {self.kept.name} of all whose {self.learned.name} is at most {self.margin:g} {worse} the best"

    def choose(self, points: Sequence[Point]) -> Point | None:
        """The chosen point; None if the target's metric is nowhere a number.

        Without a margin, ties go to the lower `val/loss`, then to what kept more; with one, to the better target metric, then
        to the lower loss. The smaller α wins what is left.
        """
        known = [p for p in points if self.gain(p) > -math.inf]
        if not known:
            return None
        best = max(map(self.gain, known))
        if self.margin is not None:
            known = [p for p in known if best - self.gain(p) <= self.margin + ROUNDING]

        def order(p: Point) -> tuple[float, ...]:
            learned, kept, loss = self.gain(p), score(p, self.kept), -number(p.values.get("val/loss"), math.inf)
            keys = (learned, loss, kept) if self.margin is None else (kept, learned, loss)
            return *(round(key, 9) if math.isfinite(key) else key for key in keys), -p.alpha

        return max(known, key=order)

    def gain(self, point: Point) -> float:
        """The target's metric, more is better; −inf where it is not a number."""
        return score(point, self.learned)


def score(point: Point, metric: MetricInfo) -> float:
    """A metric at a point with its sign changed if less is better; −inf where it is not a number."""
    return metric.sign * number(point.values.get(metric.name), -math.inf * metric.sign)


def number(value: float | None, otherwise: float) -> float:
    """A value, or `otherwise` for None and NaN."""
    return otherwise if value is None or math.isnan(value) else value
