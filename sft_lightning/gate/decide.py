"""Decides each requirement by a test on paired samples, and all of them together."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.core.wording import plural
from sft_lightning.evaluation.beside import CALIBRATION
from sft_lightning.gate.chosen_test import parts_of, tested
from sft_lightning.gate.opened import Model, check_same
from sft_lightning.gate.requirement import KEY, Requirement, check, remark
from sft_lightning.gate.scores import Scores, equal
from sft_lightning.stats.correction import correct
from sft_lightning.stats.formatting import fixed, p_value
from sft_lightning.stats.on_samples import SampleTest, with_unseen
from sft_lightning.tasks.box_groups import BOX_GROUPS
from sft_lightning.tasks.entity_groups import ENTITY_GROUPS
from sft_lightning.tasks.old_and_new import GROUPS
from sft_lightning.tasks.set_groups import SET_GROUPS

PASS, FAIL, UNDECIDED = "pass", "fail", "undecided"
CODES = {PASS: 0, FAIL: 3, UNDECIDED: 4}
"""Exit code of each verdict"""
FAR = 0.02
"""A value that is further from the recorded one was measured on another network"""


@dataclass(frozen=True)
class Decision:
    """A requirement with what was found; values and the interval are in the metric's own unit and direction."""

    requirement: Requirement
    unit: str
    candidate: float
    base: float | None
    """None for a level, which the candidate must reach alone"""
    low: float
    """Ends of the interval, of level 1 − 2α, of the difference candidate − base, or of the level"""
    high: float
    test: SampleTest
    """The test in the direction in which more is better"""
    verdict: str = UNDECIDED
    p_fail: float = 1.0
    """p of the claim that it fails, corrected for the number of requirements"""
    reason: str = ""
    note: str = ""
    where: str = ""
    """Cell of a study"""
    counted: str = "sample"
    """What `test.n` counts"""

    @property
    def difference(self) -> float | None:
        """The difference candidate − base; None for a level."""
        return None if self.base is None else self.candidate - self.base

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        about = {
            **asdict(self),
            **asdict(self.test),
            "requirement": self.requirement.text,
            "difference": self.difference,
        }
        about |= {"metric": self.requirement.metric, "low": self.low, "high": self.high}
        del about["test"], about["value"]
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in about.items()}


def decide(candidate: Model, base: Model | None, requirements: Sequence[Requirement], alpha: float) -> list[Decision]:
    """Decides the requirements, in their order. Each is tested at `alpha`; that one fails is claimed with Holm's correction.

    A gate passes if all requirements pass. Each is tested at the full level then: a wrong pass needs a wrong pass of the one
    requirement that does not hold, whatever the others do (intersection-union test).

    Raises UserError if a metric is unknown, its direction is the wrong one, or the models' samples differ.
    """
    if base is not None:
        base.known = base.known or candidate.known  # of an ordinary model with the same labels
    return conclude([measured(candidate, base, requirement, alpha) for requirement in requirements], alpha)


def conclude(found: Sequence[Decision], alpha: float) -> list[Decision]:
    """The decisions with verdicts and reasons."""
    corrected = correct([d.test.p_below for d in found], "holm")
    return [concluded(d, p if p is not None else 1.0, alpha) for d, p in zip(found, corrected, strict=True)]


def overall(decisions: Sequence[Decision]) -> str:
    """'pass' if all pass, 'fail' if one fails, else 'undecided'."""
    verdicts = {d.verdict for d in decisions}
    return FAIL if FAIL in verdicts else PASS if verdicts == {PASS} else UNDECIDED


def measured(candidate: Model, base: Model | None, requirement: Requirement, alpha: float) -> Decision:
    """Asks the models, and tests."""
    requirement = requirement.among(candidate.sets)
    place = requirement.within if requirement.on_source else None, requirement.split
    mine = candidate.scores(*place)
    info = known(requirement, mine)
    check(requirement, info)
    if requirement.signed and base is None:
        raise UserError("--against", f"'{requirement.text}' is a difference from a base", "name the base")
    theirs = None
    if requirement.signed and base is not None:
        theirs = base.scores(*place)
        check_same(candidate, base, *place)
    test = tested(mine, theirs, requirement, info.sign, alpha)
    if info.share:
        test = with_unseen(test, info.sign * requirement.number, alpha, parts_of(requirement.name, mine.values))
    low, high = (test.low, test.high) if info.sign > 0 else (-test.high, -test.low)
    notes = [remark(requirement, info), against_record(candidate, requirement, mine)]
    if theirs is not None and base is not None:
        notes.append(against_record(base, requirement, theirs))
    return Decision(
        requirement,
        info.unit,
        mine.values[requirement.name],
        None if theirs is None else theirs.values[requirement.name],
        low,
        high,
        test,
        note="; ".join(filter(None, notes)),
    )


def known(requirement: Requirement, scores: Scores) -> MetricInfo:
    """Facts about the requirement's metric. Raises UserError if it is not measured, or cannot be read by sample."""
    name = requirement.name
    info = scores.task.metric_info(name)
    names = [n for n in scores.values if (held := scores.task.metric_info(n)) is not None and held.sign]
    if (info is not None and not info.sign) or (name in scores.values and info is None):
        problem = f"'{requirement.text}': neither more nor less of {name} is better"
        raise UserError(KEY, problem, f"use one of {', '.join(names)}")
    if name not in scores.values or info is None:
        problem = f"'{requirement.text}': {unmeasured(name, scores) or f'{name} is not measured{nearest(name, names)}'}"
        raise UserError(KEY, problem, f"use one of {', '.join(names)}")
    if scores.meter_of(name) is None:
        others = [n for n in scores.values if scores.meter_of(n) is not None]
        raise UserError(
            KEY, f"'{requirement.text}': {name} cannot be computed on samples drawn anew", f"use {', '.join(others)}"
        )
    return info


def unmeasured(name: str, scores: Scores) -> str:
    """Why a metric that runs measure is not one that the gate asks for; empty for other metrics."""
    groups = {*GROUPS, *ENTITY_GROUPS, *SET_GROUPS, *BOX_GROUPS}
    if name in groups and not scores.task.info.known:
        return f"{name} needs labels that the network knew before, and these data have none (Extend has)"
    if name in groups:
        group = "old" if name.endswith("_old") or name.startswith("old_") else "new"
        return f"{name} needs samples of both groups of labels, or those of the {group} group, and the split has none"
    if name.startswith("relearn_"):
        return f"{name} is of a head that each measurement solves anew, and not of the network"
    if name in CALIBRATION:
        return f"{name} needs probabilities of classes, which {scores.task.info.name} does not have"
    return f"there is no named set '{name.partition('/')[0]}' in retention" if "/" in name else ""


def against_record(model: Model, requirement: Requirement, scores: Scores) -> str:
    """A note if the run recorded another value on the same samples. Raises UserError if it is far off."""
    test = requirement.split == "test"
    held = (model.record.get("metrics") or {}).get(requirement.metric) or {}
    recorded: Any = held.get(model.which, held.get("final"))
    if test:
        name = requirement.metric.removeprefix("test/") if requirement.on_source else requirement.metric
        recorded = (model.record.get("test") or {}).get(name) if model.which == "best" else None
    of_set = f"retention/{requirement.within}" if requirement.within else "retention"
    column = ("test/" if test else "") + of_set if requirement.on_source else requirement.split
    number = (model.record.get("n") or {}).get(column)
    if not isinstance(recorded, int | float) or number != scores.n:
        return (
            "" if not model.record or number in (None, scores.n) else f"{model.name} recorded it on {number:,} samples"
        )
    value = scores.values[requirement.name]
    if abs(value - recorded) > FAR * max(1.0, abs(recorded)):
        raise UserError(
            model.name,
            f"{requirement.metric} is {value:.4f} here, and {recorded:.4f} in run.json, of the same number of samples",
            "check that its data and its weights are those of the fit",
        )
    return "" if equal(value, recorded) else f"{model.name} recorded {recorded:.6g} ({value:.6g} here)"


def concluded(d: Decision, p_fail: float, alpha: float) -> Decision:
    """The decision with its verdict and the reason in words."""
    test, r = d.test, d.requirement
    if test.p_above <= alpha:
        return replace(
            d, verdict=PASS, p_fail=p_fail, reason=f"{claim(r, True)}: {p_value(test.p_above)}, {test.method}"
        )
    if p_fail <= alpha:
        return replace(d, verdict=FAIL, p_fail=p_fail, reason=f"{claim(r, False)}: {p_value(p_fail)}, {test.method}")
    reason = f"cannot be decided with {plural(test.n, d.counted)} ({p_value(test.p_above)}, {test.method})"
    if test.value == margin_of(d):
        reason += f"; what was observed lies at the margin, so that no number of {d.counted}s would decide it"
    elif test.needed is None:
        reason += f"; what was observed lies so near the margin that no usual number of {d.counted}s would decide it"
    else:
        side = "that it holds" if test.value > margin_of(d) else "that it does not hold"
        number = max(test.needed, test.n + 1)
        reason += f"; about {plural(number, d.counted)} would show {side}, if what was observed is so"
    return replace(d, verdict=UNDECIDED, p_fail=p_fail, reason=reason)


def margin_of(d: Decision) -> float:
    """The requirement's number in the direction in which more is better."""
    return d.requirement.number if d.requirement.operator.startswith(">") else -d.requirement.number


def claim(requirement: Requirement, holds: bool) -> str:
    """The requirement in words, as shown or as shown not to hold."""
    upward, number = requirement.operator.startswith(">"), requirement.number
    amount = fixed(abs(number), digits_of(number))
    if not requirement.signed:
        return f"{'at least' if upward == holds else 'at most'} {amount}"
    good = upward == (number >= 0) if number else True  # more than the base by a margin, and not only no worse
    if good:
        by = f" by more than {amount}" if number else ""
        return (
            f"shown to be better{by}" if holds else (f"shown not to be better{by}" if number else "shown to be worse")
        )
    return (
        f"shown to be worse by less than {amount}, if at all" if holds else f"shown to be worse by more than {amount}"
    )


def digits_of(number: float) -> int:
    """Decimals of a number as it is usually written."""
    text = f"{abs(number):.8f}".rstrip("0")
    return len(text.partition(".")[2])
