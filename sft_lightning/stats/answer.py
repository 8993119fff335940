"""Writes the answer of one cell as a sentence that claims only what the tests show."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sft_lightning.stats.differences import FEWEST, NOT_SHOWN, Difference
from sft_lightning.stats.equivalence import Equivalence
from sft_lightning.stats.formatting import Column, at_levels, count, p_value, setting, several


@dataclass(frozen=True)
class Case:
    """One arm's results on the target and on kept knowledge; `kept` is None if it was not measured."""

    arm: str
    name: str
    """the arm with its setting"""
    target: Difference
    kept: Difference | None
    as_good: Equivalence | None
    """the test that shows that the arm learns as well; None if that is not shown"""
    seeds_needed: int | None = None
    """seeds to show that, if it is not shown but the observed loss is within the margin"""

    @property
    def verdicts(self) -> tuple[str, str]:
        """Verdicts on the target and on the kept metric."""
        return self.target.verdict, self.kept.verdict if self.kept else NOT_SHOWN


def answer_cell(
    target: Sequence[Difference],
    kept: Sequence[Difference] | None,
    baseline: str,
    columns: Mapping[str, Column],
    at: Mapping[str, object],
    equivalences: Sequence[Equivalence] = (),
    settings: Mapping[str, Mapping[str, object]] | None = None,
    references: Collection[str] = (),
    keeping: Collection[str] | None = None,
) -> str:
    """One sentence: which arm learns and keeps how much more than the baseline, with intervals, p values and seeds.

    The sentence names the arm with the best shown outcome. With a margin, an arm competes if its loss in learning is shown to
    lie within the margin. The winner is the competing arm that keeps most, else one that learns more. If no arm that keeps
    more is shown to lie within the margin, the sentence gives the numbers of the arm that keeps most, and the seeds that
    would settle it. Without a margin, it names the arm that is better in one column or both without a shown loss (the most
    kept first), else a trade-off with both numbers. If nothing is better, it says what is worse, or that no difference is
    shown and how many seeds would be needed. Arms with the same kind of outcome are named but not ranked, as they were
    compared with the baseline and not with each other. References are not ranked; their numbers are added.

    Args:
        target: differences in what was learned, with corrected p values and verdicts, one per arm.
        kept: the same in what was kept, or None where it was not measured.
        baseline: name of the arm that all are compared with.
        columns: 'target' and 'kept': format of each metric's numbers.
        at: the cell's place on the axes: name → value.
        equivalences: tests of 'learns as well', one per arm, or none.
        settings: arm → chosen setting, written after the arm's name.
        references: arms that are named beside the others, and not ranked.
        keeping: those of the references that keep all knowledge by construction; None for all.
    """
    by_arm = {d.arm: d for d in kept or ()}
    as_good = {e.arm: e for e in equivalences if e.verdict != "not shown"}
    needed = {e.arm: e.seeds_needed for e in equivalences}
    named = {d.arm: d.arm + setting((settings or {}).get(d.arm, {})) for d in target}
    cases = [Case(d.arm, named[d.arm], d, by_arm.get(d.arm), as_good.get(d.arm), needed.get(d.arm)) for d in target]
    ranked = [c for c in cases if c.arm not in references]
    margin = equivalences[0].margin if equivalences else None
    beside = _reference(
        [c for c in cases if c.arm in references], baseline, columns, references if keeping is None else keeping
    )
    return at_levels(at) + _say(ranked, baseline, columns, margin) + beside + "."


def _reference(cases: list[Case], baseline: str, columns: Mapping[str, Column], keeping: Collection[str]) -> str:
    """`; for reference, linear_probe keeps all by construction, and learns less (…)`, or an empty string."""
    said = []
    for c in (c for c in cases if c.target.mean is not None):
        if c.arm not in keeping:
            said.append(_as_seen(c, baseline, columns))
            continue
        verdict = {"better": "learns more", "worse": "learns less"}.get(
            c.target.verdict, "no difference in learning is shown"
        )
        said.append(f"{c.name} keeps all by construction, and {verdict} {_numbers(c.target, columns['target'])}")
    return f"; for reference, {'; '.join(said)}" if said else ""


def _as_seen(c: Case, baseline: str, columns: Mapping[str, Column]) -> str:
    """`ceiling keeps more than plain (…) and learns more (…)`, whatever the tests show, and without a test too."""
    parts, said, than = [("target", "learn", c.target), ("kept", "keep", c.kept)], list[str](), f" than {baseline}"
    for key, verb, d in parts[::-1] if c.verdicts[1] == "better" else parts:
        if d is None or d.mean is None:
            continue
        text = f"{'has too few seeds for a test of' if d.p_corrected is None else 'shows no difference in'} {verb}ing"
        if d.verdict != NOT_SHOWN:
            text, than = f"{verb}s {'more' if d.verdict == 'better' else 'less'}{than}", ""
        said.append(f"{text} {_numbers(d, columns[key])}")
    return f"{c.name} {' and '.join(said)}"


def _say(cases: list[Case], baseline: str, columns: Mapping[str, Column], margin: float | None) -> str:
    if not cases:
        return f"there is nothing to compare {baseline} with"
    most = max(d.n for d in _differences(cases))
    if most == 0:
        return f"no arm has a value of the same seed as {baseline}: nothing can be compared"
    if most < FEWEST:
        return _too_few(cases, baseline, columns, most)
    if margin is not None:
        if found := [c for c in cases if "better" in c.verdicts and _competes(c)]:
            return _gain(found, baseline, columns)
        if found := [c for c in cases if c.verdicts[1] == "better"]:
            return _unsettled(found, baseline, columns, margin)
    for at_a_loss in (False, True):  # gains without a shown loss, then trade-offs
        found = [c for c in cases if "better" in c.verdicts and ("worse" in c.verdicts) == at_a_loss]
        if found:
            return _gain(found, baseline, columns)
    losers = [c for c in cases if "worse" in c.verdicts]
    if losers:
        return _loss(losers, cases, baseline, columns)
    return _nothing(cases, baseline, columns)


def _gain(found: list[Case], baseline: str, columns: Mapping[str, Column]) -> str:
    """Names the arm that gains most, and others with the same outcome. In a trade-off in points, the loss is subtracted."""

    def rank(c: Case) -> tuple[bool, bool, float]:
        side, d = ("kept", c.kept) if c.verdicts[1] == "better" else ("target", c.target)
        assert d is not None and d.mean is not None
        gain = columns[side].gain(d.mean)
        if "worse" in c.verdicts and all(column.share for column in columns.values()):  # points for points
            assert c.kept is not None and c.kept.mean is not None and c.target.mean is not None
            gain = columns["kept"].gain(c.kept.mean) + columns["target"].gain(c.target.mean)
        return c.verdicts[1] == "better", c.verdicts[0] == "better" or c.as_good is not None, gain

    best = max(found, key=rank)
    outcome = (best.verdicts, best.as_good is None)
    others = [c.arm for c in found if c is not best and (c.verdicts, c.as_good is None) == outcome]
    text = _both(best, baseline, columns) + _over([best]) + _unknown(best)
    if others:
        do = "does" if len(others) == 1 else "do"
        text += f"; so {do} {several(others)} (arms were compared with {baseline}, not with each other)"
    return text


def _competes(c: Case) -> bool:
    """Whether it is shown that the arm's loss in learning, if any, lies within the margin."""
    return c.as_good is not None or c.target.verdict == "better"


def _unsettled(found: list[Case], baseline: str, columns: Mapping[str, Column], margin: float) -> str:
    """Says that arms keep more but none is shown to learn as well; names the most kept without a shown loss first."""

    def rank(c: Case) -> tuple[bool, float]:
        assert c.kept is not None and c.kept.mean is not None
        return c.target.verdict != "worse", columns["kept"].gain(c.kept.mean)

    first, *others = sorted(found, key=rank, reverse=True)
    within = columns["target"].amount(margin)
    text = f"no arm that keeps more than {baseline} is shown to stay within {within} of its {columns['target'].metric}"
    text += f"{_over(found)}: "
    text += _both(first, baseline, columns)
    likewise = [c.arm for c in others if c.target.verdict == first.target.verdict]
    if likewise:
        text += f", and so {'does' if len(likewise) == 1 else 'do'} {several(likewise)}"
    if rest := [c.arm for c in others if c.arm not in likewise]:
        text += f"; {several(rest)} {'keeps more and learns' if len(rest) == 1 else 'keep more and learn'} less"
    undecided = [c for c in found if c.target.verdict != "worse"]
    if (nearest := min((c for c in undecided if c.seeds_needed), key=_seeds, default=None)) is not None:
        text += f"; about {count(_seeds(nearest), 'seed')} would settle it for {nearest.arm}, were its true loss the one seen"
    elif undecided:
        text += "; the losses seen are beyond that margin, so that more seeds would hardly bring them within"
    return text


def _seeds(c: Case) -> int:
    return c.seeds_needed or 0


def _both(c: Case, baseline: str, columns: Mapping[str, Column]) -> str:
    """`distill keeps more than plain (…) and learns as well to within 1 point (…)`; the better column comes first."""
    learned, keeps = c.verdicts
    if c.kept is None or c.kept.p_corrected is None:
        return f"{c.name} learns {_than(learned)} than {baseline} {_numbers(c.target, columns['target'])}"
    if keeps == "better":
        first = f"{c.name} keeps more than {baseline} {_numbers(c.kept, columns['kept'])}"
        return f"{first} {_learning(c, columns['target'])}"
    first = f"{c.name} learns {_than(learned)} than {baseline} {_numbers(c.target, columns['target'])}"
    numbers = _numbers(c.kept, columns["kept"])
    return f"{first} {f'but keeps less {numbers}' if keeps == 'worse' else f'with no difference in keeping shown {numbers}'}"


def _learning(c: Case, column: Column) -> str:
    if c.target.p_corrected is None:
        return "(what it learns cannot be compared)"
    numbers = _numbers(c.target, column)
    if c.target.verdict == "better":
        return f"and learns more {numbers}"
    if c.target.verdict == "worse":
        under = f", by under {column.amount(c.as_good.margin)}," if c.as_good else ""
        return f"but learns less{under} {numbers}"
    if c.as_good:
        assert c.target.mean is not None and c.as_good.p_not_worse_corrected is not None
        seen = column.difference(c.target.mean, c.target.low_corrected, c.target.high_corrected)
        p = p_value(c.as_good.p_not_worse_corrected)
        return f"and learns as well to within {column.amount(c.as_good.margin)} ({seen}, one-sided {p})"
    return f"with no difference in learning shown {numbers}"


def _loss(losers: list[Case], cases: list[Case], baseline: str, columns: Mapping[str, Column]) -> str:
    """Says that no arm is shown to gain, and which arms lose."""
    parts = []
    for c in losers:
        said = []
        if c.verdicts[0] == "worse":
            said.append(f"learns less {_numbers(c.target, columns['target'])}")
        if c.kept and c.verdicts[1] == "worse":
            said.append(f"keeps less {_numbers(c.kept, columns['kept'])}")
        parts.append(f"{c.name} {' and '.join(said)}")
    rest = [c.arm for c in cases if c not in losers and _tested(c)]
    tail = f", and no difference is shown for {several(rest)}" if rest else ""
    return f"no arm is shown better than {baseline}{_over(cases)}: {'; '.join(parts)}{tail}{_untested(cases)}"


def _nothing(cases: list[Case], baseline: str, columns: Mapping[str, Column]) -> str:
    """Says that no difference is shown, which arm came nearest, and how many seeds that difference would need."""
    tested = [c for c in cases if _tested(c)]
    where = " or ".join(columns[k].metric for k in ("target", "kept") if k == "target" or any(c.kept for c in tested))
    text = f"no difference shown between {baseline} and {several(c.name for c in tested)} in {where}{_over(tested)}"
    well = [c.arm for c in tested if c.as_good]
    margin = next((columns["target"].amount(c.as_good.margin) for c in tested if c.as_good), None)
    if margin:
        text += f" ({several(well)} {'learns' if len(well) == 1 else 'learn'} as well to within {margin})"
    made = [(c, k, d) for c in tested for k, d in (("target", c.target), ("kept", c.kept)) if d and d.p is not None]
    c, k, d = min(made, key=lambda t: t[2].p if t[2].p is not None else 1.0)
    if d.mean == 0:  # even the smallest p has no difference
        return f"{text}: the means are the same{_untested(cases)}"
    needed = "more than 10,000 seeds" if d.seeds_needed is None else f"about {count(d.seeds_needed, 'seed')}"
    return (
        f"{text}; the nearest to one is {c.arm}'s {_numbers(d, columns[k])[1:-1]}, and to see one of this size "
        f"{needed} would be needed{_untested(cases)}"
    )


def _too_few(cases: list[Case], baseline: str, columns: Mapping[str, Column], most: int) -> str:
    if most == 1:
        text = "one seed: nothing can be said of the spread; "
    else:
        text = f"{count(most, 'seed')}: too few for a test; "
    said = []
    for c in cases:
        numbers = [columns[k].difference(d.mean, None, None) for k, d in (("target", c.target), ("kept", c.kept))
                   if d and d.mean is not None]  # fmt: skip
        if numbers:
            said.append(f"{c.name} {' and '.join(numbers)}")
    return f"{text}seen against {baseline}: {'; '.join(said)}"


def _numbers(d: Difference, column: Column) -> str:
    """`(test/accuracy −0.3 points [−1.1, 0.5], p = 0.4)`, corrected."""
    assert d.mean is not None
    text = column.difference(d.mean, d.low_corrected, d.high_corrected)
    return f"({text})" if d.p_corrected is None else f"({text}, {p_value(d.p_corrected)})"


def _than(verdict: str) -> str:
    return {"better": "more", "worse": "less"}[verdict]


def _unknown(c: Case) -> str:
    """Words to add if the arm's kept column cannot be compared; else an empty string."""
    if c.kept is None:
        return "; what was kept was not measured"
    return "; what it keeps cannot be compared" if c.kept.p is None else ""


def _over(cases: list[Case]) -> str:
    """`, over 10 seeds`: number of seeds that were compared, and of those without a partner."""
    compared = [d for d in _differences(cases) if d.n]
    n = sorted({d.n for d in compared})
    left = max(d.dropped for d in compared)
    text = f", over {n[0]} to {count(n[-1], 'seed')}" if n[0] < n[-1] else f", over {count(n[0], 'seed')}"
    return f"{text} ({left} left out as a value is missing)" if left else text


def _tested(c: Case) -> bool:
    return any(d.p is not None for d in _differences([c]))


def _untested(cases: list[Case]) -> str:
    """`; swa has too few seeds for a test`, or an empty string."""
    arms = [c.arm for c in cases if not _tested(c)]
    return f"; {several(arms)} {'has' if len(arms) == 1 else 'have'} too few seeds for a test" if arms else ""


def _differences(cases: list[Case]) -> list[Difference]:
    return [d for c in cases for d in (c.target, c.kept) if d]
