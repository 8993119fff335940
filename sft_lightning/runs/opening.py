"""Opens a run directory: finds or makes it, the same on all ranks, and writes its first files."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_lightning.config.options import RunOptions
from sft_lightning.core import plain_yaml
from sft_lightning.core.errors import UserError
from sft_lightning.runs.directory import RunDirectory, create_run, run_path, sweep, write_atomic
from sft_lightning.runs.lock import RunLock
from sft_lightning.runs.record import Record

RUN_DIR = "SFT_RUN_DIR"  # tells the other ranks which directory rank zero made
OF_CHECKPOINTS = ("test", "measured", "never_beat_start")
"""Entries of a record about checkpoints, which a resumed fit replaces"""
OF_TRAINING = ("steps", "selected", "data", "retention", "retention_sets", "metric_info", "primary")
"""Entries of a record about training, which a fit that starts over replaces"""


def rank_here() -> int:
    """Returns the rank of this process; 0 if it is alone or has not started the others yet."""
    return int(next((os.environ[n] for n in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if n in os.environ), "0"))


def launched() -> int:
    """Returns how many processes torchrun or srun started together; 1 if Lightning starts the others or there are none."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_STEP_ID" in os.environ else 1


def runs_root(options: RunOptions) -> str:
    """Returns the folder of all run directories."""
    return options.runs_dir or os.environ.get("SFT_RUNS_DIR") or "runs"


def last_of(options: RunOptions, checkpoint: str | None) -> tuple[str | None, RunDirectory | None]:
    """Resolves `--run_id NAME --ckpt_path last` to (its last.ckpt, that run), each None if it does not exist yet.

    Any other checkpoint is returned unchanged, with None.
    """
    if checkpoint in ("best", "hpc") or (checkpoint == "last" and options.run_id is None):
        raise UserError(
            "ckpt_path",
            f"'{checkpoint}' names no run",
            "use fit --resume RUN_DIR, or ckpt_path last with --run_id NAME; for other commands --run RUN_DIR",
        )
    if checkpoint != "last":
        return checkpoint, None
    assert options.experiment is not None
    run = RunDirectory(run_path(runs_root(options), options.experiment, options.run_id))
    return (str(run.last) if run.last.is_file() else None), (run if run.path.is_dir() else None)


def directory_for(options: RunOptions, rank: int) -> RunDirectory:
    """Makes the directory of a new run on rank zero; returns it on the other ranks."""
    assert options.experiment is not None
    if rank and RUN_DIR in os.environ:
        return RunDirectory(Path(os.environ[RUN_DIR]))
    if launched() > 1 and options.run_id is None:
        raise UserError("run_id", f"must be given: {launched()} processes were launched together", "set --run_id NAME")
    if rank:
        return RunDirectory(Path(runs_root(options)) / options.experiment / str(options.run_id))
    return create_run(runs_root(options), options.experiment, options.run_id)


@dataclass
class OpenRun:
    """A run directory in which this process works, with its record and, on rank zero, its lock."""

    directory: RunDirectory
    record: Record
    rank: int
    made_here: bool
    """The directory is new, and this process made it"""
    writes: bool
    """The run is fitted, not evaluated: this command writes its files"""
    goes_on: bool
    """The fit starts from this run's own checkpoint"""
    lock: RunLock | None = None
    as_found: dict[Path, bytes | None] = field(default_factory=dict)
    """Files of a resumed run as they were, to restore them if the resume is refused"""

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes config.yaml, also after a resume, whose flags may have changed settings."""
        if self.rank == 0 and self.writes:
            write_atomic(self.directory.config, plain_yaml.dump(config))

    def start(self, resumed: bool, **about: Any) -> None:
        """Writes the first run.json: the run is running."""
        if self.rank or not self.writes:
            return
        content = self.record.content
        if resumed:
            content["resumed"] = content.get("resumed", 0) + 1
            for name in OF_CHECKPOINTS:
                content.pop(name, None)
            if not self.goes_on:  # it ended before anything was saved, and starts over
                content["metrics"] = {}
                for name in OF_TRAINING:
                    content.pop(name, None)
                self.directory.metrics.unlink(missing_ok=True)
        content.setdefault("cwd", os.getcwd())
        self.record.start(run_id=self.directory.run_id, **about)

    def restore(self) -> None:
        """Puts the files of a resumed run back as they were found."""
        for file, content in self.as_found.items():
            if content is None:
                file.unlink(missing_ok=True)
            else:
                write_atomic(file, content)

    def remove(self) -> None:
        """Removes the directory and the folders above it that are empty."""
        shutil.rmtree(self.directory.path, ignore_errors=True)
        for parent in (self.directory.path.parent, self.directory.path.parent.parent):
            try:
                parent.rmdir()  # fails unless the folder is empty
            except OSError:
                break

    def release(self) -> None:
        """Releases the lock, so that others can work in the directory."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None


def open_run(
    options: RunOptions, rank: int, resume: RunDirectory | None, of_run: RunDirectory | None, from_checkpoint: bool
) -> OpenRun:
    """Opens the run that is resumed or evaluated, or a new one.

    Args:
        options: The run's options, with the experiment's name.
        rank: Rank of this process.
        resume: The run to continue.
        of_run: The finished run to evaluate.
        from_checkpoint: The fit starts from a checkpoint.

    Raises:
        UserError: The directory exists, cannot be made, or another process works in it.
    """
    existing = resume or of_run
    directory = existing or directory_for(options, rank)
    os.environ[RUN_DIR] = str(directory.path)
    lock, as_found = None, {}
    if rank == 0:
        lock = RunLock(directory.path)
        lock.take()
        if resume is not None:
            sweep(directory.path)
            files = (directory.config, directory.record)
            as_found = {file: file.read_bytes() if file.is_file() else None for file in files}
    known = existing is not None and existing.record.is_file()
    return OpenRun(
        directory=directory,
        record=Record.read(directory.record) if known else Record(directory.record),
        rank=rank,
        made_here=existing is None and rank == 0,
        writes=of_run is None,
        goes_on=resume is not None and from_checkpoint,
        lock=lock,
        as_found=as_found,
    )
