"""Decides between two arms of a study, by tests that are paired over its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.gate.decide import Decision, conclude
from sft_lightning.gate.requirement import KEY, Requirement, check, remark
from sft_lightning.report.build import compare
from sft_lightning.report.model import Cell, Comparison
from sft_lightning.report.read import collect
from sft_lightning.stats.correction import seeds_needed
from sft_lightning.stats.differences import FEWEST
from sft_lightning.stats.on_samples import means


@dataclass(frozen=True)
class Arm:
    """An arm of a study: its chosen setting."""

    study: Path
    name: str
    comparison: Comparison
    report_seeds: frozenset[str]
    """Seeds whose runs are reported; empty if those that chose the setting are"""

    def values(self, cell: Cell, metric: str) -> dict[str, float]:
        """The metric by seed, of finished runs with the chosen setting."""
        return {
            p.seed: p.values[metric]
            for p in self.comparison.of(cell)
            if p.arm == self.name and p.selected and p.finished and not p.fold and metric in p.values
            if not self.report_seeds or p.seed in self.report_seeds
        }


def find_arm(place: str) -> Arm | None:
    """The arm that `STUDY:ARM` names; None if the text before the colon is not a study. Raises UserError for an unknown arm."""
    folder, colon, name = place.rpartition(":")
    if not colon or not (Path(folder).expanduser() / "study.json").is_file() or Path(place).exists():
        return None
    found = collect([folder])
    comparison = compare(found)
    if name not in comparison.arms:
        raise UserError(
            place,
            f"the study has no arm '{name}'{nearest(name, comparison.arms)}",
            f"choose {', '.join(comparison.arms)}",
        )
    seeds = found.studies[0].content.get("report_seeds") if found.studies else None
    return Arm(Path(folder).expanduser(), name, comparison, frozenset(map(str, seeds or ())))


def decide_arms(
    candidate: Arm, against: str | None, requirements: Sequence[Requirement], alpha: float
) -> list[Decision]:
    """Decides each requirement in each cell of the study; all of them must hold.

    Raises UserError if the base is another study's, or a metric was not measured.
    """
    base = None if against is None else find_arm(against)
    if against is not None and base is None:
        raise UserError(
            "--against", f"{against} is not an arm of a study, as the candidate is", f"name {candidate.study}:ARM"
        )
    if base is not None and base.study.resolve() != candidate.study.resolve():
        raise UserError(
            "--against", f"{against} is of another study", "arms are paired by their seeds within one study"
        )
    found = [
        of_cell(candidate, base, requirement, cell, alpha)
        for requirement in requirements
        for cell in candidate.comparison.cells
    ]
    return conclude(found, alpha)


def of_cell(candidate: Arm, base: Arm | None, requirement: Requirement, cell: Cell, alpha: float) -> Decision:
    """The test over the seeds of one cell."""
    info = known(candidate, requirement)
    mine = candidate.values(cell, requirement.metric)
    theirs = base.values(cell, requirement.metric) if requirement.signed and base is not None else None
    seeds = sorted(mine if theirs is None else mine.keys() & theirs.keys())
    where = candidate.comparison.label(cell) if len(candidate.comparison.cells) > 1 else ""
    if not seeds:
        raise UserError(
            KEY,
            f"'{requirement.text}': no seed has {requirement.metric}{f' at {where}' if where else ''} for all that is compared",
            "require a metric that the chosen runs measured",
        )
    first = np.array([mine[s] for s in seeds])
    second = None if theirs is None else np.array([theirs[s] for s in seeds])
    x, margin = info.sign * (first if second is None else first - second), info.sign * requirement.number
    method = "t-test over seeds" if second is None else "paired t-test over seeds"
    test = means(x, margin, alpha, method)
    if test.n >= FEWEST and (deviation := float(np.std(x, ddof=1))) > 0:
        test = replace(test, needed=seeds_needed((test.value - margin) / deviation, 2 * alpha))
    low, high = (test.low, test.high) if info.sign > 0 else (-test.high, -test.low)
    left = len(mine.keys() | (theirs or {}).keys()) - len(seeds)
    notes = [remark(requirement, info), f"{left} left out, as one of the arms lacks a value" if left else ""]
    return Decision(
        requirement,
        info.unit,
        float(first.mean()),
        None if second is None else float(second.mean()),
        low,
        high,
        test,
        note="; ".join(filter(None, notes)),
        where=where,
        counted="seed",
    )


def known(arm: Arm, requirement: Requirement) -> MetricInfo:
    """Facts about the requirement's metric. Raises UserError if the study did not measure it."""
    info = arm.comparison.info(requirement.metric)
    names = sorted({n for p in arm.comparison.points for n in p.values if arm.comparison.info(n).sign})
    if requirement.metric not in names:
        raise UserError(
            KEY,
            f"'{requirement.text}': the study has no {requirement.metric}{nearest(requirement.metric, names)}",
            "compare shows its metrics",
        )
    check(requirement, info)
    return info
