"""Turns a study's files into points and cells."""

from typing import Any

from sft_lightning.report.model import Cell, Point, value_text
from sft_lightning.report.read import Found, Notes, RunFiles, StudyFiles, number_or_none, read_json
from sft_lightning.runs.status import is_finished

ABOUT = ("point", "arm", "seed", "fold", "selected", "status", "steps")
PROBES = ("all-but-head", "LinearProbe")
"""Values of `freeze` and of the variant that make an arm a linear probe"""


def read_points(study: StudyFiles, found: Found) -> tuple[list[Point], list[Cell]]:
    """The points of `points.csv`, with their directories if they exist, and the cells of `study.json`."""
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
            what = f"nothing is chosen yet for {', '.join(open_arms)}{at}: all their settings are shown"
            found.notes.add(study.path, what)
        for point in here:
            point.selected = point.selected or point.arm in open_arms
    left_out = as_mapping(study.content.get("budget")).get("left_out")
    if isinstance(left_out, list) and left_out:
        found.notes.add(
            study.path, f"smaller than the default study, to fit its budget: {'; '.join(map(str, left_out))}"
        )
    for said in study.content.get("caveats") or []:
        found.notes.add(study.path, str(said))
    _say_what_is_missing(study, points, found.notes)
    _say_what_is_not_compared(study, points, found.notes)
    return points, cells


def _point(
    study: StudyFiles, row: dict[str, str], axes: list[str], tuned: list[str], metrics: list[str], notes: Notes
) -> Point:
    path = study.path / row["point"]
    record = read_json(path / "run.json") if row["point"] and path.is_dir() else None
    files = None
    if isinstance(record, dict):
        files = RunFiles(path, record, notes)
    elif is_finished(row.get("status")):
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
    """The cells of `study.json`, then those that only points have."""
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
            notes.add(study.path, f"study.json has a cell {at or 'without axes'} without points in points.csv")
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
                study.path,
                f"{count} of {len(points)} points {'are' if count > 1 else 'is'} {status}: left out of all means",
            )


def _say_what_is_not_compared(study: StudyFiles, points: list[Point], notes: Notes) -> None:
    """Adds notes if the study lacks a linear probe, or a tuned learning rate for its baseline."""
    arms = as_mapping(as_mapping(study.content.get("file")).get("arms"))
    if not arms:
        return
    runs = {p.arm: p.files for p in reversed(points) if p.files}
    tasks = {str(name) for r in runs.values() if (name := as_mapping(r.record.get("task")).get("name"))}
    said = [_said(as_mapping(arm).get("set"), n) for arm in arms.values() for n in ("freeze", "class_path")]
    if not _probes(said):  # the base config may set it, which then shows in the configs of the points
        said = [_said(run.config(), n) for run in runs.values() for n in ("freeze", "class_path")]
    if tasks and not tasks & {"causal_lm", "seq2seq"} and not _probes(said):
        what = "no arm is a linear probe, so it is unknown what a new head alone reaches: add an arm such as"
        notes.add(study.path, f"{what} linear_probe: {{set: {{model.class_path: LinearProbe}}}}")
    baseline = str(study.content.get("baseline"))
    if baseline in arms and len(arms) > 1 and not _tunes_rate(as_mapping(arms[baseline])):
        what = f"the learning rate of the baseline, {baseline}, is not tuned, which can flatter the other arms: add"
        notes.add(study.path, f"{what} tune: {{model.lr: […]}} to it, with the rates to choose from")


def _probes(said: list[Any]) -> bool:
    """Whether one of these values makes a linear probe."""
    return any(isinstance(v, str) and v.rpartition(".")[2] in PROBES for v in said)


def _said(overlay: Any, name: str) -> Any:
    """The value that an overlay, dotted or nested, sets for an argument of the model; None if it sets none."""
    held = as_mapping(overlay)
    for key, value in held.items():
        if key in (f"model.{name}", f"model.init_args.{name}"):
            return value
        if key in ("model", "model.init_args"):
            below = as_mapping(value)
            found = below.get(name, as_mapping(below.get("init_args")).get(name))
            if found is not None:
                return found
    return None


def _tunes_rate(arm: dict[str, Any]) -> bool:
    """Whether an arm tunes its learning rate over several values."""
    given = as_mapping(arm.get("tune")), as_mapping(as_mapping(arm.get("search")).get("ranges"))
    found = [_said(overlay, "lr") for overlay in given]
    return any(isinstance(f, dict) or (isinstance(f, list) and len(f) > 1) for f in found)


def as_mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty mapping."""
    return value if isinstance(value, dict) else {}


def parsed(text: str) -> Any:
    """A cell of the table as a number if it is one, else as text."""
    number = number_or_none(text)
    if number is None:
        return text
    return int(number) if number.is_integer() and "." not in text and "e" not in text.lower() else number
