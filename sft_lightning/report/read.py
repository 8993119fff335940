"""Finds runs and studies under paths and reads their files; unreadable ones become notes and are left out."""

import csv
import glob
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core.plain_yaml import DoubledKey, FastStrict

SCHEMA = 1
DEEPEST = 4  # levels of folders below a path that are searched for runs


class Notes(list[str]):
    """Problems that the reader found, one line each, without repetitions."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, list[str]] = {}

    def add(self, where: object, what: str) -> None:
        line = " ".join(f"{where}: {what}".split())
        if line not in self:
            self._said.setdefault(" ".join(what.split()), []).append(str(where))
            self.append(line)

    def together(self, most: int = 3) -> list[str]:
        """The notes, with one line for a problem of more than `most` places: `a, b and 7 more: …`."""
        lines = []
        for what, places in self._said.items():
            if len(places) > most:
                lines.append(f"{', '.join(places[: most - 1])} and {len(places) - most + 1} more: {what}")
            else:
                lines += [f"{place}: {what}" for place in places]
        return lines


@dataclass
class RunFiles:
    """One run directory: its record, and its other files, read on demand."""

    path: Path
    record: dict[str, Any]
    notes: Notes

    @property
    def status(self) -> str:
        return str(self.record.get("status", "unknown"))

    def config(self) -> dict[str, Any]:
        """`config.yaml`; empty, with a note, if it is missing or damaged."""
        file = self.path / "config.yaml"
        try:
            content = yaml.load(
                file.read_text(encoding="utf-8"), FastStrict
            )  # a fast loader, as hundreds of configs may be read
        except FileNotFoundError:
            self.notes.add(self.path, "it has no config.yaml: its settings are not compared")
        except DoubledKey as error:
            self.notes.add(self.path, f"config.yaml: {error}; its settings are not compared")
        except (yaml.YAMLError, ValueError, OSError, RecursionError):
            self.notes.add(self.path, "its config.yaml cannot be read: its settings are not compared")
        else:
            if isinstance(content, dict):
                return content
            self.notes.add(self.path, "its config.yaml holds no settings: its settings are not compared")
        return {}

    def history(self) -> list[dict[str, float]]:
        """`metrics.jsonl`: a dict per logged step; empty, with a note, if it is missing. Damaged lines are left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            self.notes.add(self.path, "it has no metrics.jsonl: the curves do not show it")
            return []
        rows, damaged = [], 0
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                rows.append({k: v for k, v in ((k, number_or_none(v)) for k, v in row.items()) if v is not None})
            except (ValueError, AttributeError, RecursionError):
                damaged += number < len(lines)  # the last line may still be written, or may be cut off by a kill
        if damaged:
            self.notes.add(self.path, f"{damaged} of its {len(lines)} lines of metrics.jsonl are damaged and left out")
        return [row for row in rows if "step" in row]

    def details(self) -> dict[str, Any]:
        """`details.json`; empty, with a note, if it is missing, damaged or of another schema."""
        content = read_json(self.path / "details.json")
        if isinstance(content, dict) and content.get("schema", SCHEMA) == SCHEMA:
            return content
        if content is None:
            self.notes.add(self.path, "it has no details.json: its confusion matrix, layers and samples are not shown")
        elif isinstance(content, dict):
            self.notes.add(self.path, f"its details.json has schema {content.get('schema')}, not {SCHEMA}: left out")
        else:
            self.notes.add(self.path, "its details.json cannot be read: left out")
        return {}


@dataclass
class StudyFiles:
    """One study directory: `study.json`, the rows of `points.csv`, and the directories of its points."""

    path: Path
    content: dict[str, Any]
    rows: list[dict[str, str]]

    @property
    def name(self) -> str:
        return str(self.content.get("study") or self.path.name)


@dataclass
class Found:
    """Studies, loose runs and notes found under the paths."""

    studies: list[StudyFiles] = field(default_factory=list)
    runs: list[RunFiles] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)


def collect(paths: Iterable[str]) -> Found:
    """Studies and loose runs under `paths`: run and study directories, folders of them, files in them, and globs."""
    found, seen = Found(), set[Path]()
    for given in paths:
        folders = [folder for path in expand(given) for folder in directories(path)]
        if not folders:
            there = bool(glob.glob(given)) or Path(given).expanduser().exists()
            found.notes.add(given, "it holds no run and no study" if there else "no such run, study or folder exists")
        for folder in folders:
            _take(folder, found, seen)
    return found


def expand(given: str) -> list[Path]:
    """A path itself if it exists, else the folders that it matches as a glob."""
    path = Path(given).expanduser()
    if path.exists():
        return [path.parent if path.is_file() else path]
    return [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_dir()]


def directories(path: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """The run and study directories at or below `path`; it does not search within them."""
    try:
        if any((path / name).is_file() for name in ("study.json", "points.csv", "run.json", "config.yaml")):
            yield path
        elif depth:
            for child in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
                yield from directories(child, depth - 1)
    except OSError:
        return


def _take(folder: Path, found: Found, seen: set[Path]) -> None:
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    if (folder / "study.json").is_file() or (folder / "points.csv").is_file():
        if (study := read_study(folder, found.notes)) is not None:
            found.studies.append(study)
            return
        for child in sorted(folder.iterdir()):
            if (child / "run.json").is_file():
                _take(child, found, seen)
    elif (run := read_run(folder, found.notes)) is not None:
        found.runs.append(run)


def read_run(path: Path, notes: Notes) -> RunFiles | None:
    """A run directory; None, with a note, if its record is missing, damaged or of another schema."""
    content = read_json(path / "run.json")
    if content is None:
        notes.add(path, "it has no run.json: left out")
    elif not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        notes.add(path, "its run.json is damaged, or not of this project: left out")
    elif content.get("schema", SCHEMA) != SCHEMA:
        notes.add(path, f"its run.json has schema {content['schema']}, but this version reads {SCHEMA}: left out")
    else:
        return RunFiles(path, content, notes)
    return None


def read_study(path: Path, notes: Notes) -> StudyFiles | None:
    """A study directory; None, with a note, if one of its two files is unusable: its runs are then read alone."""
    content = read_json(path / "study.json")
    if not isinstance(content, dict) or not isinstance(content.get("metrics") or {}, dict):
        what = "has no study.json" if content is None else "has a damaged study.json"
    elif content.get("schema", SCHEMA) != SCHEMA:
        what = f"has a study.json of schema {content['schema']}, but this version reads {SCHEMA}"
    else:
        try:
            with (path / "points.csv").open(newline="", encoding="utf-8") as file:
                rows = [{k: v or "" for k, v in row.items() if k} for row in csv.DictReader(file, restval="")]
            if rows and {"point", "arm"} <= set(rows[0]):
                return StudyFiles(path, content, rows)
            what = "has a points.csv without points"
        except (OSError, ValueError, csv.Error):
            what = "has no readable points.csv"
    notes.add(path, f"it {what}: its runs are compared without the study")
    return None


def read_json(path: Path) -> Any:
    """The content of a JSON file; None if it does not exist, the reason as text if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError, RecursionError) as error:
        return str(error)


def number_or_none(value: Any) -> float | None:
    """A finite number, or None for NaN, infinities (also as JSON's texts) and values that are not numbers."""
    if value is None or value == "" or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
