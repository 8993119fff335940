"""Lists the runs of a folder: their facts in one line each, filtered and sorted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.report.read import Notes, directories, number_or_none, read_run

FACTS = ("experiment", "variant", "network", "status", "started")
UNKNOWN = "–"


@dataclass
class Line:
    """One run of the list."""

    path: Path
    facts: dict[str, str]
    """The values of FACTS"""
    record: dict[str, Any]
    study: bool
    """Whether the run is part of a study"""

    def metric(self, name: str) -> float | None:
        """A metric's value at best.ckpt, else its final one, or that of the test split; None without it."""
        entry = self.record["metrics"].get(name)
        if isinstance(entry, dict):
            return number_or_none(entry.get("best", entry.get("final")))
        return number_or_none(block(self.record, "test").get(name))

    @property
    def primary(self) -> dict[str, str]:
        """Names of the primary metrics of 'target' and 'source'."""
        return {k: str(v) for k, v in block(self.record, "primary").items()}


def block(record: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of run.json; empty if it is missing or damaged."""
    held = record.get(name)
    return held if isinstance(held, dict) else {}


def runs_in(folder: Path, notes: Notes) -> list[Line]:
    """All runs at or below a folder, those of studies too. Raises UserError if there are none."""
    if not folder.is_dir():
        raise UserError(folder, "there is no such folder", "name a folder of runs, or set SFT_RUNS_DIR")
    found = []
    for place in directories(folder):
        study = not (place / "run.json").is_file() and is_study(place)
        children = sorted(p for p in place.iterdir() if (p / "run.json").is_file()) if study else [place]
        for path in children:
            if (run := read_run(path, notes)) is not None:
                times = block(run.record, "times")
                values = {**run.record, "started": str(times.get("started") or "")}
                facts = {name: str(values.get(name) or UNKNOWN) for name in FACTS}
                found.append(Line(path, facts, run.record, study or is_study(path.parent)))
    if not found:
        raise UserError(folder, "holds no run", "name a folder of runs, or set SFT_RUNS_DIR")
    return found


def is_study(folder: Path) -> bool:
    """Whether a folder is a study's, finished or not."""
    return any((folder / name).exists() for name in ("study.json", "points.csv", "plan"))


def kept(lines: Iterable[Line], wanted: Sequence[str]) -> list[Line]:
    """The runs that all conditions `FACT=PATTERN` describe, such as `variant=Distill*`."""
    chosen = list(lines)
    for condition in wanted:
        name, equals, pattern = condition.partition("=")
        if not equals or name not in FACTS:
            raise UserError(
                "--where", f"'{condition}' must be FACT=PATTERN{nearest(name, FACTS)}", f"facts are {', '.join(FACTS)}"
            )
        chosen = [line for line in chosen if fnmatch(line.facts[name], pattern)]
    return chosen


def ordered(lines: list[Line], by: str) -> list[Line]:
    """Sorts by a fact, or by a metric: the better value first where it is known which is better. Runs without it are last."""
    if by in FACTS:
        return sorted(lines, key=lambda line: (line.facts[by] == UNKNOWN, line.facts[by], str(line.path)))
    names = {name for line in lines for name in (*line.record["metrics"], *block(line.record, "test"))}
    if by not in names:
        raise UserError("--sort", f"no run has the metric '{by}'{nearest(by, names)}", f"or use {', '.join(FACTS)}")
    better = {block(block(line.record, "metric_info"), by).get("better") for line in lines} - {None}
    sign = 1.0 if better == {"min"} else -1.0

    def place(line: Line) -> tuple[bool, float, str]:
        value = line.metric(by)
        return value is None, 0.0 if value is None else sign * value, str(line.path)

    return sorted(lines, key=place)


def shown(value: float | None) -> str:
    """A metric's value in the table."""
    return UNKNOWN if value is None else f"{value:.4f}"
