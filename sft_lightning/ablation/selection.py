"""Chooses the setting of each arm that is tested, by validation metrics and the study's rule."""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_lightning.ablation.study import Select
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.metric_info import MetricInfo, is_source_metric
from sft_lightning.runs.metric_facts import facts, primary

KEPT = ("retention/agreement", "drift/kl", "drift/source_mse")
"""Metrics of kept knowledge for runs without source data, the preferred one first."""


@dataclass(frozen=True)
class Candidate:
    """A setting with its means over tuning points."""

    setting: dict[str, Any]
    target: float
    kept: float | None
    n: int
    """Number of points in the means"""
    wanted: int
    """Number of points planned. A setting with failed points is chosen only if no setting has all its points"""
    loss: float | None = None
    """Mean val/loss, which breaks ties; None if it was not measured"""

    @property
    def whole(self) -> bool:
        return self.n == self.wanted


@dataclass(frozen=True)
class Metrics:
    """The metrics that settings are chosen by, with their directions."""

    target: MetricInfo
    kept: MetricInfo | None


def metrics_of(select: Select, record: dict[str, Any]) -> Metrics:
    """The metrics of the rule: those that the study file names, else those that a finished run's record names.

    The record has the direction of each metric, so the process that chooses needs no access to the run's task.

    Raises:
        UserError: a metric that the study file names was not measured, or its direction is unknown.
    """
    known, measured, main = facts(record), record["metrics"], primary(record)
    target = select.target or main.get("target")
    if target is None:
        raise UserError("select.target", "the runs name no primary metric", f"use one of {', '.join(measured)}")
    first = next((k for k in measured if k == f"retention/{target.rpartition('/')[2]}"), "")
    candidates = [first, main.get("source", ""), *(k for k in measured if is_source_metric(k)), *KEPT]
    kept = select.kept or next((k for k in candidates if k in measured and known_direction(known, k)), None)
    found = [named(which, name, measured, known) for which, name in (("target", target), ("kept", kept)) if name]
    return Metrics(found[0], found[1] if len(found) > 1 else None)


def named(which: str, name: str, measured: Collection[str], known: Mapping[str, MetricInfo]) -> MetricInfo:
    """Direction and unit of a metric that settings are chosen by."""
    if name not in measured:
        raise UserError(
            f"select.{which}",
            f"'{name}' was not measured{nearest(name, measured)}",
            f"use one of {', '.join(measured)}",
        )
    if not known_direction(known, name):
        raise UserError(
            f"select.{which}",
            f"the runs do not record whether more or less of '{name}' is better",
            "use another metric, or declare its direction among the metrics of its task",
        )
    return known[name]


def known_direction(known: Mapping[str, MetricInfo], name: str) -> bool:
    """Whether settings can be ranked by a metric."""
    return name in known and known[name].better is not None


def candidate(
    setting: dict[str, Any],
    values: list[tuple[float | None, float | None]],
    wanted: int,
    losses: Sequence[float | None] = (),
) -> Candidate | None:
    """Means of target, kept and loss over a setting's points; None if no point has a target value."""
    targets = [t for t, _ in values if t is not None and not math.isnan(t)]
    kepts = [k for _, k in values if k is not None and not math.isnan(k)]
    if not targets:
        return None
    kept = statistics.fmean(kepts) if len(kepts) == len(targets) else None
    found = [loss for loss in losses if loss is not None and not math.isnan(loss)]
    mean_loss = statistics.fmean(found) if found and len(found) == len(losses) else None
    return Candidate(setting, statistics.fmean(targets), kept, len(targets), wanted, mean_loss)


def choose(candidates: list[Candidate], select: Select, metrics: Metrics) -> tuple[Candidate, list[bool], str]:
    """Returns (the chosen candidate, whether the rule allows each candidate, the reason in words).

    Ties go to the lower mean val/loss, then to the first in the list. Raises ValueError for an empty list.
    """
    whole = [c for c in candidates if c.whole] or candidates
    target_name, up, kept = metrics.target.name, metrics.target.sign, metrics.kept
    best = max(whole, key=lambda c: (up * c.target, -or_inf(c.loss)))
    if select.rule == "best" or kept is None or best.kept is None:
        reach = [c in whole and c.target == best.target for c in candidates]
        missing = "" if select.rule == "best" else "; nothing of what is kept was measured"
        return best, reach, f"the best mean {target_name} on validation ({best.target:.4g}){missing}"
    slack = select.within + 1e-12 * max(1.0, abs(best.target))  # means of shares differ in their last bits
    reach = [c in whole and up * (best.target - c.target) <= slack for c in candidates]
    within = [c for c, fits in zip(candidates, reach, strict=True) if fits and c.kept is not None]
    chosen = max(within, key=lambda c: (kept.sign * or_zero(c.kept), up * c.target, -or_inf(c.loss)))
    why = (
        f"of {len(within)} settings within {select.within:g} of the best mean {target_name} on validation "
        f"({best.target:.4g}), the one with the best mean {kept.name} ({chosen.kept:.4g})"
    )
    return chosen, reach, why if len(candidates) > 1 else "the only setting"


def or_inf(value: float | None) -> float:
    """Infinity for a loss that was not measured."""
    return math.inf if value is None else value


def or_zero(value: float | None) -> float:
    """0 for a value that was not measured."""
    return 0.0 if value is None else value
