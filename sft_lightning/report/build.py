"""Builds a Comparison from the studies and runs that were found."""

from collections import Counter
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.metric_info import MetricInfo, on_test, on_validation
from sft_lightning.report import from_runs, from_study
from sft_lightning.report.metrics import main_drift, main_kept, main_target
from sft_lightning.report.model import Cell, Comparison, Point
from sft_lightning.report.read import Found
from sft_lightning.runs.metric_facts import facts, find, together, unrecorded


def compare(found: Found, metrics: list[str] | None = None) -> Comparison:
    """Compares all studies and loose runs.

    `metrics` names the target and kept metrics (by either split's name) in place of those of the study or the runs. Raises
    UserError if there is nothing to compare.
    """
    points: list[Point] = []
    cells: list[Cell] = []
    for study in found.studies:
        more, places = from_study.read_points(study, found)
        points, cells = points + more, cells + places
    more, places = from_runs.read_points(found.runs, found.notes)
    points, cells = points + more, cells + places
    if not points:
        why = f": {found.notes[0]}" if found.notes else ""
        raise UserError(
            "compare", f"there is nothing to compare{why}", "give run directories, studies, or folders of them"
        )
    names = dict.fromkeys(on_validation(n) for p in points for n in p.values)
    known, contradicted = _known(found, points)
    target, kept = _main_metrics(found, points, names)
    for i, wanted in enumerate(metrics or []):
        name = on_validation(wanted)
        if name not in names:
            near = nearest(name, names)
            raise UserError("--metric", f"no run has '{wanted}'{near}", f"use one of {', '.join(names)}")
        target, kept = (name, kept) if i == 0 else (target, name) if i == 1 else (target, kept)
    baselines = [s.content.get("baseline") for s in found.studies]
    comparison = Comparison(
        points,
        [c for c in cells if any(p.study == c.study and p.cell == c.at for p in points)],
        target or "val/accuracy",
        kept,
        main_drift(names),
        known,
        baseline=str(baselines[0]) if baselines and baselines[0] else None,
        notes=found.notes,
        title=_title(found),
    )
    _say_what_is_not_ranked(comparison, contradicted)
    for cell in comparison.cells:
        here = comparison.of(cell)
        if not any(comparison.target in p.values for p in here):
            found.notes.add(
                comparison.label(cell), f"no run in it has {comparison.target}; choose another metric with --metric"
            )
    return comparison


def _known(found: Found, points: list[Point]) -> tuple[dict[str, MetricInfo], list[str]]:
    """(facts of metrics from studies and run records, names of metrics on which these contradict each other).

    An older study records only the directions of its two main metrics; those of its other metrics come from a list of the
    metrics of that time.
    """
    said = [facts(p.files.record) for p in points if p.files]
    said += [facts(s.content) for s in found.studies if "metric_info" in s.content]
    older = {n for p in points if not p.files for n in p.values} - {n for one in said for n in one}
    said.append({n: info for n in sorted(older) if (info := unrecorded(n)) is not None})
    known, contradicted = together(said)
    for study in found.studies:
        metrics = from_study.as_mapping(study.content.get("metrics"))
        for which, better in from_study.as_mapping(metrics.get("better")).items():
            name = metrics.get(which)
            if isinstance(name, str) and better in ("max", "min") and name not in (*known, *contradicted):
                known[name] = MetricInfo(name, better)
    return known, contradicted


def _say_what_is_not_ranked(comparison: Comparison, contradicted: list[str]) -> None:
    """Adds notes for shown metrics whose better direction is unknown."""
    names = comparison.metrics()
    both = [n for n in names if n in contradicted or on_test(n) in contradicted]
    unknown = [n for n in names if n not in both and find(comparison.known, n) is None]
    for what, these in (("runs contradict each other on", both), ("no run says", unknown)):
        if these:
            comparison.notes.add(", ".join(these), f"{what} whether more or less of it is better: not ranked")


def _main_metrics(found: Found, points: list[Point], names: Any) -> tuple[str | None, str | None]:
    """Target and kept metric, by validation's names: of the first study, or that select most runs, or of their tasks."""
    said: list[tuple[str, str | None]] = []
    for study in found.studies:
        metrics = from_study.as_mapping(study.content.get("metrics"))
        if isinstance(target := metrics.get("target"), str):
            kept = metrics.get("kept")
            said.append((target, kept if isinstance(kept, str) else None))
            if said[0] != said[-1]:
                found.notes.add(study.path, f"it compares {target} and {kept}, not {said[0][0]} and {said[0][1]}")
    primaries = [from_study.as_mapping(p.files.record.get("primary")) for p in points if p.files]
    source = _most([p.get("source") for p in primaries], names)
    if said and said[0][0] in names:
        return said[0][0], said[0][1] if said[0][1] in names else main_kept(names, said[0][0], source)
    chosen = _most([from_study.as_mapping(r.record.get("selected")).get("by") for r in found.runs], names)
    target = chosen or _most([p.get("target") for p in primaries], names) or main_target(names)
    return target, main_kept(names, target, source)


def _most(said: list[Any], names: Any) -> str | None:
    """The metric of `names` that is named most often."""
    counted = Counter(str(name) for name in said if name in names)
    return counted.most_common(1)[0][0] if counted else None


def _title(found: Found) -> str:
    parts = [s.name for s in found.studies]
    if found.runs:
        parts.append(f"{len(found.runs)} runs" if len(found.runs) > 1 else found.runs[0].path.name)
    return " and ".join(parts)
