"""`runs`: lists runs, shows one, and removes what may go."""

import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sft_lightning.cli.parser import Parser
from sft_lightning.core.errors import UserError, escape_controls
from sft_lightning.core.metric_info import counted, on_test, on_validation
from sft_lightning.core.wording import plural
from sft_lightning.report.garden import FACTS, UNKNOWN, Line, block, kept, ordered, runs_in, shown
from sft_lightning.report.read import Notes
from sft_lightning.runs.cleaning import Spare, remove, size_of, spare_of, within
from sft_lightning.runs.load import load


def make_parser() -> Parser:
    """Builds the parser of `runs`."""
    parser = Parser("runs", description="List runs, show one, or remove what may go.")
    parser.add_argument("what", choices=["list", "show", "clean"], help="what to do")
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="folder of runs, or the run to show; default SFT_RUNS_DIR or runs",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="FACT=PATTERN",
        help=f"only these runs, such as variant=Distill*; may be given several times; facts: {', '.join(FACTS)}",
    )
    parser.add_argument(
        "--sort", metavar="NAME", help="a fact, or a metric such as val/accuracy; list's default is started"
    )
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="a metric for a column of list; may be given several times; default the primary ones",
    )
    parser.add_argument("--yes", action="store_true", help="clean: remove without asking")
    return parser


def main(arguments: list[str]) -> int:
    """Runs `runs`. Returns 0, or raises UserError."""
    given = make_parser().parse_intermixed_args(arguments)
    refuse_without_effect(given)
    if given.what == "show":
        if given.folder is None:
            raise UserError("runs show", "names no run", "give its directory")
        show(given.folder)
        return 0
    folder = (given.folder or Path(os.environ.get("SFT_RUNS_DIR") or "runs")).expanduser()
    notes = Notes()
    found = kept(runs_in(folder, notes), given.where)
    for note in notes.together():
        print(f"note: {escape_controls(note)}", file=sys.stderr)
    if given.what == "list":
        table(ordered(found, given.sort or "started"), folder, given.metric)
    else:
        clean(found, folder, given.yes)
    return 0


def refuse_without_effect(given: Any) -> None:
    """Raises UserError for an option that another command than the one given takes."""
    takes = {"list": ("where", "sort", "metric"), "show": (), "clean": ("where", "yes")}[given.what]
    for name in ("where", "sort", "metric", "yes"):
        if getattr(given, name) and name not in takes:
            raise UserError(f"--{name}", f"has no effect on runs {given.what}", "leave it out")


def console() -> Console:
    """The terminal or file that output goes to; long tables are not cut in files."""
    wide = None if sys.stdout.isatty() else 1000
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=wide)


def table(lines: list[Line], folder: Path, metrics: list[str] | None) -> None:
    """Prints one row for each run."""
    names = metrics or list(dict.fromkeys(name for line in lines for name in line.primary.values()))
    made = Table()
    for name in ("run", *FACTS[1:], *names):
        made.add_column(name, overflow="fold")
    for line in lines:
        path = line.path.relative_to(folder) if line.path != folder else line.path
        values = [line.facts[name] for name in FACTS[1:]] + [shown(line.metric(name)) for name in names]
        made.add_row(*map(escape_controls, (str(path), *values)))
    out = console()
    if lines:
        out.print(made)
    print(f"{plural(len(lines), 'run')} in {folder}")


def show(path: Path) -> None:
    """Prints what is known of one run."""
    run = load(path)
    record = run.record
    times, data, kept_data = (block(record, name) for name in ("times", "data", "retention"))
    facts = {
        "run": run.path,
        "status": run.status + (f": {record['reason']}" if record.get("reason") else ""),
        "variant": f"{record.get('variant')} on {record.get('network')}, seed {record.get('seed')}",
        "from": block(record, "pretrained").get("name") or "random weights",
        "data": data.get("description"),
        "source": kept_data.get("description"),
        "started": f"{times.get('started', UNKNOWN)}, ended {times.get('ended', UNKNOWN)}",
        "command": record.get("command"),
        "disk": f"{size_of(run.path) / 1e6:.1f} MB",
        "exports": ", ".join(sorted(str(p.parent) for p in run.path.glob("export/*/parity.json"))),
    }
    for name, value in facts.items():
        if value:
            print(escape_controls(f"{name:<9}{value}"))
    made, numbers = Table(), block(record, "n")
    for name in ("metric", "before", "best", "final", "n", "test", "n of test"):
        made.add_column(name)
    test = block(record, "test")
    for name, entry in record["metrics"].items():
        if name.startswith("test/") and on_validation(name) in record["metrics"]:
            continue  # beside its value on validation
        tested = test.get(on_test(name), test.get(name))
        values = [number(entry.get(which)) for which in ("before", "best", "final")]
        of = [str(numbers.get(counted(one, numbers), UNKNOWN)) for one in (name, on_test(name))]
        made.add_row(escape_controls(name), *values, of[0], number(tested), of[1] if tested is not None else UNKNOWN)
    if record["metrics"]:
        console().print(made)


def number(value: Any) -> str:
    """A metric's value; infinities and NaN are texts in run.json."""
    return shown(float(value)) if isinstance(value, (int, float)) else UNKNOWN if value is None else str(value)


def clean(lines: list[Line], folder: Path, yes: bool) -> None:
    """Shows what may go, asks, and removes it."""
    by_place = {line.path.resolve(): line for line in lines}
    places = within(folder, list(by_place))
    if len(places) < len(by_place):
        print(
            f"{plural(len(by_place) - len(places), 'run')} outside of {folder}, to which links lead: stay as they are"
        )
    found: list[tuple[Spare, Path]] = [
        (s, place) for place in places for s in spare_of(place, by_place[place].record, by_place[place].study)
    ]
    for spare, _ in found:
        print(escape_controls(f"{spare.path}  {spare.why}, {spare.bytes / 1e6:.1f} MB"))
    total = sum(spare.bytes for spare, _ in found)
    lines = [by_place[place] for place in places]
    points = sum(line.study and line.record.get("status") == "failed" for line in lines)
    if points:
        print(f"{plural(points, 'failed point')} of studies stay: ablate runs them again, or remove the study")
    if not found:
        print(f"nothing may go in {folder} ({plural(len(lines), 'run')})")
        return
    said = f"{plural(len(found), 'item')}, {total:,} bytes"
    if not yes and not (sys.stdin.isatty() and input(f"Remove {said}? [y/N] ").strip().lower() in ("y", "yes")):
        print(f"nothing was removed: {said}; --yes removes without asking")
        return
    for spare, run in found:
        remove(spare, run)
    print(f"removed {said}")
