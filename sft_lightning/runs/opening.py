"""Opens a run directory: finds or makes it, the same one on all ranks, and writes its first files."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.config.options import RunOptions
from sft_lightning.core.errors import UserError
from sft_lightning.runs.directory import RunDirectory, create_run, run_path, sweep, write_atomic
from sft_lightning.runs.lock import RunLock
from sft_lightning.runs.record import Record

RUN_DIR = "SFT_RUN_DIR"  # tells the processes of the other ranks where rank zero made the directory
OF_CHECKPOINTS = ("test", "measured", "never_beat_start")
"""What a record says of checkpoints, which a resumed fit is about to outdo"""
OF_TRAINING = ("steps", "selected", "data", "retention", "metric_info", "primary")
"""What a record says of training, which a fit that begins again is about to say anew"""


def rank_here() -> int:
    """This process among those that train together; 0 where it is alone, or before the others are started."""
    return int(next((os.environ[n] for n in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if n in os.environ), "0"))


def launched() -> int:
    """Processes that torchrun or srun started together; 1 where Lightning starts the others itself, or there are none."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_STEP_ID" in os.environ else 1


def runs_root(options: RunOptions) -> str:
    """The folder of all run directories."""
    return options.runs_dir or os.environ.get("SFT_RUNS_DIR") or "runs"


def last_of(options: RunOptions, checkpoint: str | None) -> tuple[str | None, RunDirectory | None]:
    """`--run_id NAME --ckpt_path last`: (its last.ckpt, that run); None for what is not there yet.

    Any other checkpoint is given back as it is.
    """
    if checkpoint in ("best", "hpc") or (checkpoint == "last" and options.run_id is None):
        raise UserError(
            "ckpt_path",
            f"of which run is '{checkpoint}'? Use fit --resume RUN_DIR, or --run_id NAME with ckpt_path last; for "
            "the other commands --run RUN_DIR",
        )
    if checkpoint != "last":
        return checkpoint, None
    assert options.experiment is not None
    run = RunDirectory(run_path(runs_root(options), options.experiment, options.run_id))
    return (str(run.last) if run.last.is_file() else None), (run if run.path.is_dir() else None)


def directory_for(options: RunOptions, rank: int) -> RunDirectory:
    """A new run's directory: made by rank zero, found by the other ranks."""
    assert options.experiment is not None
    if rank and RUN_DIR in os.environ:
        return RunDirectory(Path(os.environ[RUN_DIR]))
    if launched() > 1 and options.run_id is None:
        raise UserError("run_id", f"{launched()} processes were launched together", "name their run by --run_id")
    if rank:
        return RunDirectory(Path(runs_root(options)) / options.experiment / str(options.run_id))
    return create_run(runs_root(options), options.experiment, options.run_id)


@dataclass
class OpenRun:
    """A run directory that this process works in, with its record and, on rank zero, its lock."""

    directory: RunDirectory
    record: Record
    rank: int
    made_here: bool
    """The directory is new, and this process made it"""
    writes: bool
    """The run is fitted, not evaluated: its files are this command's to write"""
    goes_on: bool
    """The checkpoint that the fit begins from is this run's own"""
    lock: RunLock | None = None
    as_found: dict[Path, bytes | None] = field(default_factory=dict)
    """Files of a resumed run as they were: what refuses it leaves them so"""

    def write_config(self, config: dict[str, Any]) -> None:
        """Writes config.yaml, after a resume too: what was overridden is what the run became."""
        if self.rank == 0 and self.writes:
            write_atomic(self.directory.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def start(self, resumed: bool, **about: Any) -> None:
        """Writes the first run.json: the run is running."""
        if self.rank or not self.writes:
            return
        content = self.record.content
        if resumed:
            content["resumed"] = content.get("resumed", 0) + 1
            for name in OF_CHECKPOINTS:
                content.pop(name, None)
            if not self.goes_on:  # it ended before anything was saved, and begins again
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
        """Removes the directory, and the folders above it where they are empty."""
        shutil.rmtree(self.directory.path, ignore_errors=True)
        for parent in (self.directory.path.parent, self.directory.path.parent.parent):
            try:
                parent.rmdir()  # only where it is empty
            except OSError:
                break

    def release(self) -> None:
        """Lets others work in the directory."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None


def open_run(
    options: RunOptions, rank: int, resume: RunDirectory | None, of_run: RunDirectory | None, from_checkpoint: bool
) -> OpenRun:
    """Opens the run that is resumed or evaluated, else a new one.

    Args:
        options: With the experiment's name.
        rank: This process.
        resume: The run to continue.
        of_run: The finished run to evaluate.
        from_checkpoint: A fit begins from a checkpoint.

    Raises:
        UserError: the directory exists, cannot be made, or another process works in it.
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
