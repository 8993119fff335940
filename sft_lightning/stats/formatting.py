"""Formats numbers and names for sentences: points for shares, p values, intervals, lists."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.stats.summary import Values


@dataclass(frozen=True)
class Column:
    """Format of one metric's numbers, and its direction."""

    metric: str
    better: str
    share: bool

    def gain(self, difference: float) -> float:
        """The difference, with its sign changed if less is better."""
        return difference if self.better == "max" else -difference

    def amount(self, value: float) -> str:
        """A positive amount: `1 point`, `0.5 points`, or a plain number."""
        if not self.share:
            return three_figures(value)
        text = three_figures(100 * value)
        return f"{text} point" if text == "1" else f"{text} points"

    def difference(self, mean: float, low: float | None, high: float | None) -> str:
        """`test/accuracy +5.2 points [4.1, 6.3]`; `(less is better)` is added for metrics to minimise."""
        scale, unit = (100, " points") if self.share else (1, "")
        if low is None or high is None:
            digits = 1 if self.share else decimals(mean, scale)
        else:
            digits = decimals(high - low, scale)
        text = f"{self.metric} {fixed(scale * mean, digits, sign=True)}{unit}"
        if low is not None and high is not None:
            text += f" [{fixed(scale * low, digits)}, {fixed(scale * high, digits)}]"
        return text if self.better == "max" else f"{text} (less is better)"


def column(metric: MetricInfo, values: Values) -> Column:
    """The format of a metric's numbers. A share is written in points if all its known values lie in [0, 1].

    Raises UserError if the metric's direction is unknown.
    """
    if metric.better is None:
        raise UserError(
            f"metric {metric.name}",
            "is neither to be maximised nor minimised, so it cannot be tested",
            "use another metric, or declare its direction among the metrics of its task",
        )
    known = [v for by_seed in values.values() for v in by_seed.values() if v is not None and math.isfinite(v)]
    return Column(metric.name, metric.better, metric.share and all(0 <= v <= 1 for v in known))


def decimals(width: float, scale: float) -> int:
    """Number of decimals that shows about two figures of a `width`; at least one for points."""
    width = abs(width * scale) / 5
    if width == 0 or not math.isfinite(width):
        return 1
    return min(max(-math.floor(math.log10(width)), 1 if scale > 1 else 0), 8)


def fixed(value: float, digits: int, sign: bool = False) -> str:
    """`value` with `digits` decimals and a true minus; never '-0.0'."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return ("+" + text if sign and value > 0 else text).replace("-", "−")


def three_figures(value: float) -> str:
    """`value` with three figures, a true minus and no trailing zeros."""
    return f"{value:.3g}".replace("-", "−")


def p_value(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {float(f'{p:.2g}'):g}"


def several(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    words = list(names)
    return " and ".join([*([", ".join(words[:-1])] if words[:-1] else []), *words[-1:]])


def setting(values: Mapping[str, object]) -> str:
    """` (lr 0.001, alpha 0.1)`, or an empty string."""
    return f" ({', '.join(f'{k} {plain(v)}' for k, v in values.items())})" if values else ""


def at_levels(at: Mapping[str, object]) -> str:
    """The beginning of a cell's sentence: `With shots_per_class 5, data trec, `."""
    return f"With {', '.join(f'{k} {plain(v)}' for k, v in at.items())}, " if at else "In this study, "


def plain(value: object) -> str:
    """A value of an axis or a setting in plain writing."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain, value))
    return str(value)


def count(n: int, one: str) -> str:
    """`1 seed`, `12,000 seeds`."""
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"
