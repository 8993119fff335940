"""Computes the statistics of a cell: spread over seeds, differences from the baseline, tests, and the answer.

Every number is over seeds. Arms are paired by seed: the same seed means the same labelled subset, order and initial head.
Intervals and tests therefore describe how the outcome varies with the seed on this test split. They do not include how it
would vary with another test split.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.stats import differences as diff
from sft_lightning.stats import equivalence as equiv
from sft_lightning.stats.answer import answer_cell
from sft_lightning.stats.correction import correct, seeds_needed
from sft_lightning.stats.differences import Difference, compare_with_baseline
from sft_lightning.stats.equivalence import Equivalence, equivalence
from sft_lightning.stats.formatting import Column, column
from sft_lightning.stats.summary import UNBOUNDED, Summary, Values, summarise

__all__ = [
    "Column",
    "Difference",
    "Equivalence",
    "Summary",
    "Values",
    "answer_cell",
    "cell_statistics",
    "cell_tests",
    "compare_with_baseline",
    "correct",
    "equivalence",
    "seeds_needed",
    "summarise",
]


def cell_statistics(
    target: Values,
    kept: Values | None,
    baseline: str,
    metrics: Mapping[str, MetricInfo],
    within: float | None,
    at: Mapping[str, object],
    settings: Mapping[str, Mapping[str, object]] | None = None,
    level: float = 0.95,
    references: Collection[str] = (),
    keeping: Collection[str] | None = None,
) -> dict[str, Any]:
    """All statistics of one cell, as plain values for `study.json` under `cells[].statistics`.

    Keys:
        `baseline`, `level`, `within`, `references`: as given (`within` is null without a margin).
        `columns`: `target` and `kept`, each `{metric, better, share}`. With `share`, sentences give points, while the numbers
            here are as measured. `kept` is null if kept knowledge was not measured, here and below.
        `summaries`: `target` and `kept`, each arm → the fields of `Summary`.
        `differences`: `target` and `kept`, each a list with the fields of `Difference`, one per arm but the baseline.
        `equivalence`: a list with the fields of `Equivalence` in the target metric; null without a margin.
        `tests`: number of tests corrected together; `at_most_true`: number of their hypotheses that can be true at once.
        `methods`: sentences that explain the numbers.
        `answer`: one sentence.

    Args:
        target: arm → seed → value of the target metric; None, NaN and infinities are unknown.
        kept: the same for the kept metric, or None.
        baseline: the arm that the others are compared with.
        metrics: 'target' and 'kept': name, direction and unit of each.
        within: margin of 'learns as well' in the target metric's unit; None or 0 for no such test.
        at: the cell's place on the axes.
        settings: arm → chosen setting, for the answer.
        level: of confidence.
        references: arms that are compared but not ranked, such as a linear probe or training on all data.
        keeping: those of the references that keep all knowledge by construction; None for all.

    Raises:
        UserError: a metric with unknown direction, or a negative margin.
    """
    target = {baseline: {}, **target}
    if kept is not None and not any(summarise(v.values()).n for v in kept.values()):
        kept = None
    sides: dict[str, Values] = {"target": target}
    if kept is not None:
        sides["kept"] = {baseline: {}, **kept}
    columns = {k: column(metrics[k], v) for k, v in sides.items()}
    found, as_good, tests, at_most = cell_tests(sides, columns, baseline, within, level)
    as_good = equiv.settle(as_good, found["target"], columns["target"].better, level)

    both = ("target", "kept")
    return {
        "baseline": baseline,
        "level": level,
        "within": within or None,
        "references": [arm for arm in target if arm in references],
        "columns": {k: asdict(columns[k]) if k in columns else None for k in both},
        "summaries": {
            k: {arm: asdict(summarise(v.values(), level, _bounds(columns[k], 0.0))) for arm, v in sides[k].items()}
            if k in sides
            else None
            for k in both
        },
        "differences": {k: [asdict(d) for d in found[k]] if k in found else None for k in both},
        "equivalence": [asdict(e) for e in as_good] if within else None,
        "tests": tests,
        "at_most_true": at_most,
        "methods": methods(level, tests, at_most, within or None, kept is not None),
        "answer": answer_cell(
            found["target"], found.get("kept"), baseline, columns, at, as_good, settings, references, keeping
        ),
    }


def cell_tests(
    sides: Mapping[str, Values], columns: Mapping[str, Column], baseline: str, within: float | None, level: float
) -> tuple[dict[str, list[Difference]], list[Equivalence], int, int]:
    """Makes and corrects a cell's tests; returns (differences by column, tests of 'as well', number of tests, at most true).

    Each arm has three hypotheses on the target: no difference, worse by the margin, better by the margin. At most one of them
    is true. So at most as many hypotheses of the family are true at once as differences were tested.
    """
    raw = {k: diff.raw_differences(v, baseline, level, _bounds(columns[k], -1.0)) for k, v in sides.items()}
    better = {k: column.better for k, column in columns.items()}
    one_sided = equiv.raw_equivalence(sides["target"], baseline, within, better["target"]) if within else []
    p = [d.p for found in raw.values() for d in found]
    at_most = sum(x is not None for x in p)
    p += [e.p_not_worse for e in one_sided] + [e.p_not_better for e in one_sided]
    corrected = iter(correct(p, "holm", at_most))
    differences = {
        k: [diff.conclude(d, next(corrected), at_most, better[k], level, _bounds(columns[k], -1.0)) for d in found]
        for k, found in raw.items()
    }
    not_worse = [next(corrected) for _ in one_sided]
    as_good = [equiv.conclude(e, w, next(corrected), level) for e, w in zip(one_sided, not_worse, strict=True)]
    return differences, as_good, sum(x is not None for x in p), at_most


def methods(level: float, tests: int, at_most: int, within: float | None, kept: bool) -> list[str]:
    """Sentences that explain a cell's numbers and name the methods."""
    percent = f"{100 * level:g} %"
    said = [
        f"Mean, sample standard deviation and {percent} Student's t interval of the mean over seeds; beside it the BCa "
        "bootstrap interval (scipy), which is too narrow for fewer than about 20 seeds.",
        "Differences from the baseline are paired by seed: the same seed means the same labelled subset, order and initial "
        "head. They are tested with the two-sided paired t-test; the sign-flip test beside it does without the assumption of "
        "normal differences, but cannot reach p = 0.05 with fewer than six seeds. No test is made below three.",
        f"The {tests} tests of this cell{' (both columns)' if kept else ''} are corrected together by "
        + (
            f"Shaffer's first step-down procedure, which is Holm's where at most {at_most} hypotheses can be true at once: "
            if at_most < tests
            else "Holm's procedure: "
        )
        + f"where the t-test's assumption holds, the chance of any false claim in the cell is at most {100 * (1 - level):g} %. "
        "Cells are not corrected for each other.",
        "The answer's intervals are widened for that correction, and leave out 0 exactly where the corrected test shows a "
        "difference.",
        "Seeds needed: pairs with which the paired t-test would see a true difference of the observed size, with the observed "
        "spread, with 80 % power at the corrected level (statsmodels); as rough as those two estimates are.",
        "All of this is about the variation over seeds on the test split there is, not about the choice of its samples.",
    ]  # fmt: skip
    if within:
        said.insert(
            4,
            f"'As well' is shown by one-sided paired t-tests (TOST) against a difference of {within:g} in the target metric; "
            "'no difference shown' claims nothing of the kind. Of the arms that keep more, the answer ranks those alone that "
            "are shown to learn as well or more. A reference, such as an arm that keeps all by construction, is not ranked.",
        )
    return said


def _bounds(column: Column, lowest: float) -> tuple[float, float]:
    """Bounds of a share's mean (from 0) or difference (from −1); other metrics have none."""
    return (lowest, 1.0) if column.share else UNBOUNDED
