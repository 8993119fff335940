"""From what was found to what is compared."""

from collections import Counter
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.report import from_runs, from_study
from sft_lightning.report.metrics import main_drift, main_kept, main_target, on_validation
from sft_lightning.report.model import Cell, Comparison, Point
from sft_lightning.report.read import Found


def compare(found: Found, metrics: list[str] | None = None) -> Comparison:
    """All studies and loose runs together.

    `metrics` names the target and kept metrics (either split's name) in place of those that the study or the runs say.
    UserError where nothing can be compared.
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
        raise UserError(f"compare: nothing to compare{why}; give run directories, studies, or folders of them")
    names = dict.fromkeys(on_validation(n) for p in points for n in p.values)
    target, kept, directions = _main_metrics(found, names)
    for i, wanted in enumerate(metrics or []):
        name = on_validation(wanted)
        if name not in names:
            from sft_lightning.core.errors import nearest

            near = nearest(name, names)
            raise UserError(f"--metric: no run has '{wanted}'{near or '; there are ' + ', '.join(names)}")
        target, kept = (name, kept) if i == 0 else (target, name) if i == 1 else (target, kept)
    baselines = [s.content.get("baseline") for s in found.studies]
    comparison = Comparison(
        points,
        [c for c in cells if any(p.study == c.study and p.cell == c.at for p in points)],
        target or "val/accuracy",
        kept,
        main_drift(names),
        directions,
        baseline=str(baselines[0]) if baselines and baselines[0] else None,
        notes=found.notes,
        title=_title(found),
    )
    for cell in comparison.cells:
        here = comparison.of(cell)
        if not any(comparison.target in p.values for p in here):
            found.notes.add(comparison.label(cell), f"no run of it has {comparison.target}; choose with --metric")
    return comparison


def _main_metrics(found: Found, names: Any) -> tuple[str | None, str | None, dict[str, str]]:
    """Validation's names of target and kept, and directions: the first study's, else what most runs were chosen by."""
    said: list[tuple[str, str | None]] = []
    directions: dict[str, str] = {}
    for study in found.studies:
        metrics = from_study.as_mapping(study.content.get("metrics"))
        if isinstance(target := metrics.get("target"), str):
            kept = metrics.get("kept")
            said.append((target, kept if isinstance(kept, str) else None))
            better = from_study.as_mapping(metrics.get("better"))
            for name, which in ((target, better.get("target")), (kept, better.get("kept"))):
                if isinstance(name, str) and which in ("max", "min"):
                    directions.setdefault(name, which)
            if said[0] != said[-1]:
                found.notes.add(study.path, f"it is about {target} and {kept}, not {said[0][0]} and {said[0][1]}")
    if said and said[0][0] in names:
        return said[0][0], said[0][1] if said[0][1] in names else main_kept(names, said[0][0]), directions
    chosen = Counter(
        str(by) for r in found.runs if (by := from_study.as_mapping(r.record.get("selected")).get("by")) in names
    )
    target = chosen.most_common(1)[0][0] if chosen else main_target(names)
    return target, main_kept(names, target), directions


def _title(found: Found) -> str:
    parts = [s.name for s in found.studies]
    if found.runs:
        parts.append(f"{len(found.runs)} runs" if len(found.runs) > 1 else found.runs[0].path.name)
    return " and ".join(parts)
