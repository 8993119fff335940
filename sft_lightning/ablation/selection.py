"""Which setting an arm goes to the test split with: chosen on validation alone, by the study's rule."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sft_lightning.ablation.study import Select

KEPT = ("retention/agreement", "drift/kl", "drift/source_mse")
"""What stands for kept knowledge where there is no source data, the better first."""


@dataclass(frozen=True)
class Candidate:
    """A setting with its means over tuning points."""

    setting: dict[str, Any]
    target: float
    kept: float | None
    n: int
    """Points that the means are of"""
    wanted: int
    """Points that there should be: a setting of which some failed is not chosen while another is whole"""
    loss: float | None = None
    """Mean val/loss, which breaks ties; None where it was not measured"""

    @property
    def whole(self) -> bool:
        return self.n == self.wanted


@dataclass(frozen=True)
class Metrics:
    """What settings are judged by, and which way is up."""

    target: str
    kept: str | None
    target_better: str
    kept_better: str


def metrics_of(select: Select, record: dict[str, Any]) -> Metrics:
    """The metrics of the rule; what the study file does not name is found in a finished run's record."""
    from sft_lightning.core.errors import UserError, nearest
    from sft_lightning.core.structures import TaskInfo
    from sft_lightning.evaluation.selection import better, selecting

    info, known = TaskInfo(**record["task"]), record["metrics"]
    target = select.target or selecting(info, None)[0]
    first = next((k for k in known if k.startswith("retention/") and k.endswith(target.partition("/")[2])), "")
    candidates = [first, *(k for k in known if is_first_of_source(k)), *KEPT]
    kept = select.kept or next((k for k in candidates if k in known), None)
    for which, name in (("target", target), ("kept", kept)):
        if name is not None and name not in known:
            raise UserError(
                f"select.{which}: '{name}' was not measured{nearest(name, known)}; there are {', '.join(known)}"
            )
    return Metrics(target, kept, better(target, info), better(kept, info) if kept else "max")


def is_first_of_source(name: str) -> bool:
    """Whether a metric may be the source task's own."""
    stage, _, metric = name.partition("/")
    return stage == "retention" and metric not in ("loss", "agreement", "forgetting")


def candidate(
    setting: dict[str, Any],
    values: list[tuple[float | None, float | None]],
    wanted: int,
    losses: Sequence[float | None] = (),
) -> Candidate | None:
    """Means of (target, kept) over a setting's points, and of their losses; None where no point has a target value."""
    targets = [t for t, _ in values if t is not None and not math.isnan(t)]
    kepts = [k for _, k in values if k is not None and not math.isnan(k)]
    if not targets:
        return None
    kept = statistics.fmean(kepts) if len(kepts) == len(targets) else None
    found = [loss for loss in losses if loss is not None and not math.isnan(loss)]
    mean_loss = statistics.fmean(found) if found and len(found) == len(losses) else None
    return Candidate(setting, statistics.fmean(targets), kept, len(targets), wanted, mean_loss)


def choose(candidates: list[Candidate], select: Select, metrics: Metrics) -> tuple[Candidate, list[bool], str]:
    """(the chosen one, which were within the rule's reach, why in a sentence). Ties go to the lower mean
    val/loss, then to the first listed.

    Raises ValueError for no candidates.
    """
    whole = [c for c in candidates if c.whole] or candidates
    up, kept_up = sign(metrics.target_better), sign(metrics.kept_better)
    best = max(whole, key=lambda c: (up * c.target, -or_inf(c.loss)))
    if select.rule == "best" or metrics.kept is None or best.kept is None:
        reach = [c in whole and c.target == best.target for c in candidates]
        missing = "" if select.rule == "best" else "; nothing of what is kept was measured"
        return best, reach, f"the best mean {metrics.target} on validation ({best.target:.4g}){missing}"
    slack = select.within + 1e-12 * max(1.0, abs(best.target))  # means of shares differ in their last bits
    reach = [c in whole and up * (best.target - c.target) <= slack for c in candidates]
    within = [c for c, fits in zip(candidates, reach, strict=True) if fits and c.kept is not None]
    chosen = max(within, key=lambda c: (kept_up * or_zero(c.kept), up * c.target, -or_inf(c.loss)))
    why = (
        f"of {len(within)} settings within {select.within:g} of the best mean {metrics.target} on validation "
        f"({best.target:.4g}), the one with the best mean {metrics.kept} ({chosen.kept:.4g})"
    )
    return chosen, reach, why if len(candidates) > 1 else "the only setting"


def sign(better: str) -> int:
    """1 where more is better, else -1."""
    return 1 if better == "max" else -1


def or_inf(value: float | None) -> float:
    """Infinity for a loss that was not measured."""
    return math.inf if value is None else value


def or_zero(value: float | None) -> float:
    """0 for what was not measured."""
    return 0.0 if value is None else value
