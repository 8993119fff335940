"""`study status`: shows a study's points with the states of their jobs."""

import csv
import sys
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from sft_lightning.ablation.jobs import StudyJobs
from sft_lightning.ablation.study_dir import STOPPED, StudyDir
from sft_lightning.cli.parser import Parser
from sft_lightning.core.errors import UserError
from sft_lightning.runs.status import FINISHED, RUNNING, is_finished

UNKNOWN = "–"


def make_parser() -> Parser:
    """Builds the parser of `study`."""
    parser = Parser(
        "study",
        description="Show the state of a study: its points and, on Slurm, their jobs.",
    )
    parser.add_argument("what", choices=["status"], help="status: list unfinished points and count the finished ones")
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder, such as runs/mine")
    parser.add_argument("--all", action="store_true", help="list finished points too")
    return parser


def main(arguments: list[str]) -> int:
    """Runs `study`. Returns 0, or raises UserError."""
    given = make_parser().parse_args(arguments)
    folder = StudyDir(given.study)
    if not (given.study / "plan").is_dir():
        raise UserError(
            "study", f"{given.study} is not a study's folder, because it has no plan/", "name one such as runs/mine"
        )
    labels, jobs = labels_of(folder), StudyJobs(folder)
    table = Table()
    for name in ("point", "what", "state", "job", "why"):
        table.add_column(name, no_wrap=name not in ("what", "why"), overflow="fold")
    found: Counter[str] = Counter()
    for point in [*labels, *planned(folder, labels)]:
        at = where(folder, jobs, point)
        found[at.state] += 1
        if not is_finished(at.state) or given.all:
            table.add_row(point, labels.get(point, UNKNOWN), at.state, at.job or UNKNOWN, at.why)
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if table.row_count:
        console.print(table)
    said = ", ".join(f"{found[state]} {state}" for state in sorted(found, key=order)) or "no point yet"
    if not jobs.answers:
        said += "; Slurm does not answer"
    elif jobs.submissions:
        last = jobs.submissions[-1].collect
        about = jobs.of(last)
        state = "over" if about is None else f"{about.state}{f' ({about.reason})' if about.reason else ''}"
        said += f"; collecting job {last}: {state}"
    console.print(f"{said}; {given.study}", soft_wrap=True)
    return 0


class Where(NamedTuple):
    """The state of a point in one word, its job, and the reason."""

    state: str
    job: str | None
    why: str = ""


def where(folder: StudyDir, jobs: StudyJobs, point: str) -> Where:
    """Finds a point's state. Its run's files tell what is done, Slurm's queue what is to come; a point in neither is lost."""
    standing, job = folder.standing(point), jobs.task_of(point)
    if standing.status == "failed":
        return Where("failed", job, str(standing.of("fit").get("reason") or ""))
    if standing.finished or standing.status == RUNNING:
        return Where(standing.status, job)
    if (about := jobs.of(job)) is not None:
        return Where(about.state, job, about.reason)
    begun = f"begun, at step {standing.record.get('steps') or 0}" if standing.record else ""
    if job is None:
        return Where("interrupted" if begun else "not submitted" if jobs.submissions else "queued", None, begun)
    if not jobs.answers:
        return Where("submitted", job, begun)
    if standing.of("fit").get("exit") in STOPPED:
        return Where("stopped", job, begun)
    return Where("lost", job, f"its job is over; logs/slurm-{job}.out")


ORDER = (
    FINISHED,
    RUNNING,
    "completing",
    "pending",
    "submitted",
    "queued",
    "not submitted",
    "interrupted",
    "stopped",
)
"""Order of states in the summary: those that need attention come last"""


def order(state: str) -> tuple[int, str]:
    """Sorts a state by its place in the summary."""
    return ORDER.index(state) if state in ORDER else len(ORDER), state


def planned(folder: StudyDir, known: Container[str]) -> list[str]:
    """Returns points that have a plan but are missing from the table."""
    return sorted(file.stem for file in (folder.path / "plan").iterdir() if file.stem not in known)


def labels_of(folder: StudyDir) -> dict[str, str]:
    """Reads points.csv, in its order: {point: its arm and settings in words}."""
    try:
        with folder.points.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return {}
    found = {}
    for row in rows:
        places = list(row.items())[1:]
        until = next((i for i, (name, _) in enumerate(places) if name == "selected"), len(places))
        found[row["point"]] = " ".join(v if name == "arm" else f"{name} {v}" for name, v in places[:until] if v)
    return found
