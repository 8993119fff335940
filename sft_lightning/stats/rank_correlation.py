"""Rank correlation of gauges with what was kept: does a gauge that needs no source data order ways of tuning rightly?"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats  # type: ignore[import-untyped]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of one gauge with what was kept."""

    metric: str
    rho: float | None
    """In [−1, 1]; None with fewer than three units, or if either is equal for all"""
    n: int
    """Number of units that have both: arms, or settings"""


def rank_correlations(
    kept: Mapping[str, float], gauges: Mapping[str, Mapping[str, float]]
) -> dict[str, RankCorrelation]:
    """Spearman's correlation of each gauge with `kept`, over the units that have both. Ties share their mean rank.

    Units were chosen by hand, so a p value would mean nothing: the number says how well the gauge ordered these.

    Args:
        kept: Unit (an arm, or a setting) to what it kept.
        gauges: Metric to unit to value.
    """
    found = {}
    for metric, values in gauges.items():
        units = [u for u, v in kept.items() if math.isfinite(v) and math.isfinite(values.get(u, math.nan))]
        rho = None
        if len(units) > 2:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of values that are all equal
                value = float(stats.spearmanr([kept[u] for u in units], [values[u] for u in units]).statistic)
            rho = value if math.isfinite(value) else None
        found[metric] = RankCorrelation(metric, rho, len(units))
    return found
