"""Paths of a study's files, and the status of its points as the files on disk give it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_lightning.ablation.plan import Point, written
from sft_lightning.core.errors import UserError
from sft_lightning.runs.directory import RunDirectory, run_path, write_atomic
from sft_lightning.runs.lock import RunLock
from sft_lightning.runs.status import FINISHED, is_finished, is_over

STOPPED = (130, 138, 143)
"""Exit codes of jobs that were asked to stop, and can be resumed."""
KILLED, MOST_KILLS = (134, 135, 137, 139), 3
"""Exit codes of a process that a signal killed, and the number of such kills in a row after which a job has failed"""


@dataclass(frozen=True)
class StudyDir:
    """Paths of one study: `runs_dir/<study>/`, with a run directory for each point."""

    path: Path

    @staticmethod
    def at(root: str | Path, name: str) -> "StudyDir":
        return StudyDir(run_path(root, name, "x").parent)

    @property
    def record(self) -> Path:
        return self.path / "study.json"

    @property
    def points(self) -> Path:
        return self.path / "points.csv"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def timing(self) -> Path:
        """Folder of the fits whose first steps are timed; it is removed afterwards."""
        return self.path / "timing"

    @property
    def journal(self) -> Path:
        return self.path / "search.journal"

    def run(self, point: str) -> RunDirectory:
        return RunDirectory(self.path / point)

    def config(self, point: str) -> Path:
        return self.path / "plan" / f"{point}.yaml"

    def path_plan(self, point: str) -> Path:
        """Options of `path` for a point that is chosen on the path of a run."""
        return self.path / "plan" / f"{point}.json"

    def log(self, point: str) -> Path:
        return self.path / "logs" / f"{point}.log"

    def note(self, point: str) -> Path:
        return self.path / "logs" / f"{point}.json"

    def make(self) -> None:
        """Creates the folders."""
        try:
            for folder in (self.path, self.path / "plan", self.path / "logs"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                "runs_dir", f"{error.filename} cannot be created: {error.strerror}", "set --runs_dir"
            ) from None

    def plan(self, point: Point) -> None:
        """Writes the config that fit reads for a point; rewritten each time, as options such as `wandb` may have changed.

        For a point on the path of a run, writes the options of `path`.
        """
        if point.along is None:
            write_atomic(self.config(point.id), written(point.config))
            return
        of, asked = point.along
        write_atomic(self.path_plan(point.id), json.dumps([str(self.run(of).path), *asked.options]) + "\n")

    # ---- the status of a point ----

    def run_json(self, point: str) -> dict[str, Any] | None:
        """Reads run.json; None if it is missing or damaged, so that the run starts again."""
        try:
            content = json.loads(self.run(point).record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) and isinstance(content.get("metrics"), dict) else None

    def read_note(self, point: str) -> dict[str, Any]:
        """Reads how the last attempt at a point ended; empty before the first attempt."""
        try:
            content = json.loads(self.note(point).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def add_note(self, point: str, job: str, **about: Any) -> dict[str, Any]:
        """Records how an attempt at a job ended: `exit`, `reason`, `seconds`. Returns the whole note."""
        note = self.read_note(point)
        held = note.get(job, {})
        note[job] = {**about, "attempts": held.get("attempts", 0) + 1}
        if about.get("exit") in KILLED:
            note[job]["kills"] = (held.get("kills", 0) if held.get("exit") in KILLED else 0) + 1
        write_atomic(self.note(point), json.dumps(note) + "\n")
        return note

    def standing(self, point: str) -> "PointStatus":
        """'finished', 'failed', 'interrupted', 'running' or 'queued', with the run's record."""
        record, note = self.run_json(point), self.read_note(point)
        status = (record or {}).get("status")
        if is_finished(status):
            return PointStatus(FINISHED, record, note)
        if has_failed(note.get("fit", {})):
            return PointStatus("failed", record, note)
        if record is None:
            return PointStatus("queued", None, note)
        if status == "running" and self.held(point):
            return PointStatus("running", record, note)
        return PointStatus("interrupted", record, note)

    def has_weights(self, point: str) -> bool:
        """Whether there is a checkpoint to test."""
        run = self.run(point)
        return run.best.is_file() or run.last.is_file()

    def held(self, point: str) -> bool:
        """Whether a process holds the lock of the point's run directory."""
        lock = RunLock(self.run(point).path)
        try:
            lock.take()
        except UserError:
            return True
        lock.release()
        return False


def has_failed(about: dict[str, Any]) -> bool:
    """Whether a job is not retried, as its last attempt ended in an error or was killed too often in a row."""
    code = about.get("exit", 0)
    if code in KILLED:
        return bool(about.get("kills", MOST_KILLS) >= MOST_KILLS)
    return code not in (0, *STOPPED)


@dataclass
class PointStatus:
    """The status of a point, its run's record, and the note of its last attempts."""

    status: str
    record: dict[str, Any] | None = None
    note: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        return is_finished(self.status)

    @property
    def over(self) -> bool:
        """Finished, or failed for good."""
        return is_over(self.status)

    @property
    def tested(self) -> bool:
        return bool(self.record and self.record.get("test"))

    @property
    def wants_test(self) -> bool:
        """Finished, and not tested yet."""
        return self.finished and not self.tested and not self.test_failed

    @property
    def test_failed(self) -> bool:
        return has_failed(self.of("test"))

    def of(self, job: str) -> dict[str, Any]:
        """The note on 'fit' or 'test': exit, reason, seconds, attempts."""
        held = (self.note or {}).get(job)
        return held if isinstance(held, dict) else {}

    def value(self, metric: str) -> float | None:
        """A validation metric at best.ckpt, or a metric of the test split if `metric` begins with test/."""
        record = self.record or {}
        if metric.startswith("test/"):
            held = record.get("test") or {}
            found = held.get(metric, held.get(metric.removeprefix("test/")))
        else:
            entry = record["metrics"].get(metric, {}) if record else {}
            found = entry.get("selected", entry.get("final"))
        return None if found is None else float(found)
