"""`study status`: a study's points with the states of their jobs."""

import csv
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sft_lightning.ablation.folder import StudyFolder
from sft_lightning.arguments import Parser
from sft_lightning.errors import UserError

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
    folder = StudyFolder(given.study)
    if not (given.study / "plan").is_dir():
        raise UserError(f"study: {given.study} is no study's folder: it has no plan/")
    labels, jobs = labels_of(folder), jobs_of(folder)
    states = squeue()
    table = Table()
    for name in ("point", "what", "status", "job", "state", "why"):
        table.add_column(name, no_wrap=name != "what", overflow="fold")
    found: Counter[str] = Counter()
    for point in sorted(file.stem for file in (given.study / "plan").glob("*.yaml")):
        standing = folder.standing(point)
        job = jobs.get(point, UNKNOWN)
        state, reason = states.get(job, (UNKNOWN, ""))
        found[standing.status] += 1
        if standing.status != "finished" or given.all:
            why = str(standing.of("fit").get("reason") or "") if standing.status == "failed" else reason
            table.add_row(point, labels.get(point, UNKNOWN), standing.status, job, state, why)
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if table.row_count:
        console.print(table)
    said = ", ".join(f"{count} {status}" for status, count in sorted(found.items())) or "no point yet"
    collect = noted(folder).get("collect")
    if collect is not None:
        state, reason = states.get(str(collect), ("over", ""))
        said += f"; collecting job {collect}: {state}{f' ({reason})' if reason else ''}"
    console.print(f"{said}; {given.study}", soft_wrap=True)
    return 0


def noted(folder: StudyFolder) -> dict[str, object]:
    """What the last submission was: `array`, `collect` (job ids), `points` in the order of the array's tasks."""
    try:
        content = json.loads((folder.path / "slurm" / "jobs.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def jobs_of(folder: StudyFolder) -> dict[str, str]:
    """{point: the array's task that it was submitted as, such as `12_3`}"""
    about = noted(folder)
    points = about.get("points")
    return {str(p): f"{about.get('array')}_{i}" for i, p in enumerate(points)} if isinstance(points, list) else {}


def squeue() -> dict[str, tuple[str, str]]:
    """{job: (state, why it waits)} of this user's jobs that are not over; empty where no Slurm answers."""
    try:
        done = subprocess.run(
            ["squeue", "--me", "--noheader", "--array", "--format=%i %T %r"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = {}
    for line in done.stdout.splitlines():
        job, state, reason = (*line.split(maxsplit=2), "", "")[:3]
        found[job] = (state.lower(), "" if reason in ("None", "") else reason)
    return found


def labels_of(folder: StudyFolder) -> dict[str, str]:
    """What each point of points.csv is, in words."""
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
