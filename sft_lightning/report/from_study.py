"""A study's files as points and cells."""

from typing import Any

from sft_lightning.report.model import Cell, Point, value_text
from sft_lightning.report.read import Found, Notes, RunFiles, StudyFiles, number_or_none, read_json

ABOUT = ("point", "arm", "seed", "fold", "selected", "status", "steps")


def read_points(study: StudyFiles, found: Found) -> tuple[list[Point], list[Cell]]:
    """The points of `points.csv`, with their directories where they are there, and the cells of `study.json`."""
    axes = [str(a) for a in as_mapping(study.content.get("axes"))]
    columns = list(study.rows[0])
    axes = [a for a in axes if a in columns]
    metrics = [c for c in columns if "/" in c]
    tuned = [c for c in columns if c not in (*ABOUT, *axes, *metrics)]
    points = [_point(study, row, axes, tuned, metrics, found.notes) for row in study.rows]
    cells = _cells(study, points, found.notes)
    for cell in cells:
        here = [p for p in points if p.cell == cell.at]
        chosen = {p.arm for p in here if p.selected}
        open_arms = dict.fromkeys(p.arm for p in here if p.arm not in chosen)
        if open_arms:
            at = f" at {cell.label(False)}" if cell.at else ""
            what = f"nothing is chosen yet for {', '.join(open_arms)}{at}: each of their settings is shown"
            found.notes.add(study.path, what)
        for point in here:
            point.selected = point.selected or point.arm in open_arms
    left_out = as_mapping(study.content.get("budget")).get("left_out")
    if isinstance(left_out, list) and left_out:
        found.notes.add(study.path, f"smaller than the default study, for its budget: {'; '.join(map(str, left_out))}")
    _say_what_is_missing(study, points, found.notes)
    return points, cells


def _point(
    study: StudyFiles, row: dict[str, str], axes: list[str], tuned: list[str], metrics: list[str], notes: Notes
) -> Point:
    path = study.path / row["point"]
    record = read_json(path / "run.json") if row["point"] and path.is_dir() else None
    files = None
    if isinstance(record, dict):
        files = RunFiles(path, record, notes)
    elif row.get("status") == "finished":
        notes.add(path, "its run.json is damaged" if record else "its directory is gone: only its row is shown")
    return Point(
        id=row["point"],
        arm=row["arm"],
        cell={a: parsed(row[a]) for a in axes},
        setting={t: parsed(row[t]) for t in tuned if row[t] != ""},
        seed=row.get("seed", ""),
        fold=row.get("fold", ""),
        selected=row.get("selected") in ("1", "True", "true"),
        status=row.get("status", "unknown") or "unknown",
        values={m: v for m in metrics if (v := number_or_none(row[m])) is not None},
        variant=str(files.record.get("variant", "")) if files else "",
        study=study.name,
        files=files,
        steps=number_or_none(row.get("steps")),
    )


def _cells(study: StudyFiles, points: list[Point], notes: Notes) -> list[Cell]:
    """Those of `study.json`, then those that only points know."""
    said = study.content.get("cells")
    said = [c for c in said if isinstance(c, dict)] if isinstance(said, list) else []
    answers = study.content.get("answer")
    answers = [answers] if isinstance(answers, str) else answers if isinstance(answers, list) else []
    cells: list[Cell] = []
    for i, entry in enumerate(said):
        at = {
            str(k): parsed(repr(v) if isinstance(v, float) else value_text(v))
            for k, v in as_mapping(entry.get("at")).items()
        }
        if not any(p.cell == at for p in points):
            notes.add(study.path, f"study.json has a cell {at or 'without axes'} of which points.csv has no point")
            continue
        own = as_mapping(entry.get("statistics")).get("answer")
        answer = str(own or (answers[i] if len(answers) == len(said) else ""))
        arms = {str(k): as_mapping(v) for k, v in as_mapping(entry.get("arms")).items()}
        cells.append(Cell(study.name, at, entry.get("statistics"), answer, arms))
    if answers and cells and not any(c.answer for c in cells):
        cells[0].answer = " ".join(map(str, answers))
    for point in points:
        if not any(c.at == point.cell for c in cells):
            cells.append(Cell(study.name, point.cell))
    return cells


def _say_what_is_missing(study: StudyFiles, points: list[Point], notes: Notes) -> None:
    failures = study.content.get("failures")
    for failure in failures if isinstance(failures, list) else []:
        if isinstance(failure, dict):
            notes.add(
                study.path / str(failure.get("point", "")), f"failed ({failure.get('arm')}): {failure.get('reason')}"
            )
    for status in ("running", "queued", "interrupted", "failed"):
        if count := sum(p.status == status for p in points):
            notes.add(
                study.path, f"{count} of {len(points)} points {'are' if count > 1 else 'is'} {status}: not in any mean"
            )


def as_mapping(value: Any) -> dict[str, Any]:
    """The value where it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


def parsed(text: str) -> Any:
    """A cell of the table as a number where it is one."""
    number = number_or_none(text)
    if number is None:
        return text
    return int(number) if number.is_integer() and "." not in text and "e" not in text.lower() else number
