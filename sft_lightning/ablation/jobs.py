"""A study's submissions to Slurm: which job each point was given, and which of them are not over.

Ids alone would not do: a cluster that is set up anew counts from one again, so a job's name must be the study's, too.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sft_lightning.ablation.study_dir import StudyDir
from sft_lightning.cluster.slurm_queue import Queued, queue
from sft_lightning.runs.directory import write_atomic


@dataclass
class Submission:
    """An array, and the job after it."""

    array: str | None
    """None where no point was due"""
    points: list[str] = field(default_factory=list)
    """In the order of the array's tasks"""
    collect: str | None = None
    """None for a moment, while it is being submitted"""


class StudyJobs:
    """The jobs of a study, those of earlier submissions too.

    Args:
        folder: The study's.
    """

    def __init__(self, folder: StudyDir) -> None:
        self.folder = folder
        self.submissions = read(self.file)
        found = queue() if self.submissions else {}
        self.answers = found is not None
        """Whether Slurm says what is in the queue; there is nothing to ask where nothing was submitted"""
        names = (self.name, f"{self.name}-collect")
        self._queue = {job: about for job, about in (found or {}).items() if about.name in names}

    @property
    def file(self) -> Path:
        return self.folder.path / "slurm" / "jobs.json"

    @property
    def name(self) -> str:
        """Of the array; the collecting job's is NAME-collect."""
        return f"ablate-{self.folder.path.name}"

    def of(self, job: str | None) -> Queued | None:
        """What of a job; None where it is over."""
        return None if job is None else self._queue.get(job)

    def task_of(self, point: str) -> str | None:
        """The job that a point was given: one that is not over, else the last; None where it was never submitted."""
        tasks = [f"{s.array}_{s.points.index(point)}" for s in self.submissions if point in s.points]
        return next((t for t in tasks if self.of(t)), tasks[-1] if tasks else None)

    def is_queued(self, point: str) -> bool:
        """Whether a job of the point's waits or runs."""
        return self.of(self.task_of(point)) is not None

    def arrays(self) -> list[str]:
        """Arrays of which a task is not over."""
        under_way = {job.partition("_")[0] for job in self._queue}
        return [s.array for s in self.submissions if s.array in under_way]

    def collecting(self) -> list[str]:
        """Collecting jobs that are not over; one, unless a submission was cut off."""
        return [s.collect for s in self.submissions if s.collect is not None and self.of(s.collect)]

    def note(self, submission: Submission) -> None:
        """Adds a submission, or writes what has become of one."""
        if submission not in self.submissions:
            self.submissions.append(submission)
        write_atomic(self.file, json.dumps([asdict(s) for s in self.submissions], indent=1) + "\n")


def read(file: Path) -> list[Submission]:
    """What is noted; empty where there is nothing."""
    try:
        return [Submission(**s) for s in json.loads(file.read_text())]
    except (OSError, ValueError, TypeError):
        return []
