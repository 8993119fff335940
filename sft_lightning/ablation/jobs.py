"""Records a study's submissions to Slurm: the job of each point, and which jobs are still in the queue.

A job is the study's only if its name is, too: a reinstalled cluster counts ids from one again.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sft_lightning.ablation.study_dir import StudyDir
from sft_lightning.cluster.slurm_queue import Queued, queue
from sft_lightning.runs.directory import write_atomic


@dataclass
class Submission:
    """A job array and the collecting job after it."""

    array: str | None
    """Job id; None if no point was due"""
    points: list[str] = field(default_factory=list)
    """Point ids in the order of the array's tasks"""
    collect: str | None = None
    """Job id; None until the job is submitted"""


class StudyJobs:
    """The jobs of a study, from all its submissions.

    Args:
        folder: The study's folder.
    """

    def __init__(self, folder: StudyDir) -> None:
        self.folder = folder
        self.submissions = read(self.file)
        found = queue() if self.submissions else {}
        self.answers = found is not None
        """Whether the queue is known: Slurm answers, or nothing was submitted"""
        names = (self.name, f"{self.name}-collect")
        self._queue = {job: about for job, about in (found or {}).items() if about.name in names}

    @property
    def file(self) -> Path:
        return self.folder.path / "slurm" / "jobs.json"

    @property
    def name(self) -> str:
        """Name of the array; the collecting job is NAME-collect."""
        return f"ablate-{self.folder.path.name}"

    def of(self, job: str | None) -> Queued | None:
        """A job's entry in the queue; None if it is over."""
        return None if job is None else self._queue.get(job)

    def task_of(self, point: str) -> str | None:
        """A point's job: one in the queue, else the last one; None if the point was never submitted."""
        tasks = [f"{s.array}_{s.points.index(point)}" for s in self.submissions if point in s.points]
        return next((t for t in tasks if self.of(t)), tasks[-1] if tasks else None)

    def is_queued(self, point: str) -> bool:
        """Whether the point has a job that waits or runs."""
        return self.of(self.task_of(point)) is not None

    def arrays(self) -> list[str]:
        """Arrays with a task in the queue."""
        under_way = {job.partition("_")[0] for job in self._queue}
        return [s.array for s in self.submissions if s.array in under_way]

    def collecting(self) -> list[str]:
        """Collecting jobs in the queue; at most one, unless a submission was interrupted."""
        return [s.collect for s in self.submissions if s.collect is not None and self.of(s.collect)]

    def note(self, submission: Submission) -> None:
        """Writes a new or changed submission to the study's file."""
        if submission not in self.submissions:
            self.submissions.append(submission)
        write_atomic(self.file, json.dumps([asdict(s) for s in self.submissions], indent=1) + "\n")


def read(file: Path) -> list[Submission]:
    """Reads the submissions; empty if the file is missing or unreadable."""
    try:
        return [Submission(**s) for s in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError):
        return []
