"""`study status`: a study's points with the states of their jobs."""

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
    """The options of `study`."""
    parser = Parser(
        "study",
        description="How a study stands: its points, and where it runs on Slurm their jobs.",
    )
    parser.add_argument("what", choices=["status"], help="status: each point that is not finished, and how many are")
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's folder, such as runs/mine")
    parser.add_argument("--all", action="store_true", help="finished points too")
    return parser


def main(arguments: list[str]) -> int:
    """Carries out `study`; returns 0, or raises UserError."""
    given = make_parser().parse_args(arguments)
    folder = StudyDir(given.study)
    if not (given.study / "plan").is_dir():
        raise UserError("study", f"{given.study} is no study's folder: it has no plan/")
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
    """How a point stands, as one word, with its job and why."""

    state: str
    job: str | None
    why: str = ""


def where(folder: StudyDir, jobs: StudyJobs, point: str) -> Where:
    """What of a point: its run's files say what is done, the queue what is to come, and both together what is lost."""
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
"""In which states are counted; what needs somebody comes last"""


def order(state: str) -> tuple[int, str]:
    """Where a state comes in the summary."""
    return ORDER.index(state) if state in ORDER else len(ORDER), state


def planned(folder: StudyDir, known: Container[str]) -> list[str]:
    """Points that have a plan, and are not known from the table."""
    return sorted(file.stem for file in (folder.path / "plan").glob("*.yaml") if file.stem not in known)


def labels_of(folder: StudyDir) -> dict[str, str]:
    """Each point of points.csv, in its order, with what it is in words."""
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
