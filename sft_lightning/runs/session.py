"""One run from its directory's birth to its last line: opens it, equips Trainer, and closes it however it ends.

The command line and Python (`runs/python.py`) are its clients: it takes plain values and gives arguments of Trainer.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher as SubprocessLauncher

from sft_lightning.cluster.requeue import leave
from sft_lightning.config.options import RunOptions
from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError
from sft_lightning.core.signals import Interrupted
from sft_lightning.evaluation.retention import RetentionMonitor
from sft_lightning.modules.base import CHECKPOINT_KEY, SFTModule
from sft_lightning.modules.same_checkpoint import check_same
from sft_lightning.runs.after_fit import after_fit
from sft_lightning.runs.checkpoint_io import read_checkpoint
from sft_lightning.runs.directory import RunDirectory, sweep_run_id
from sft_lightning.runs.equipment import Equipment, begin_wandb
from sft_lightning.runs.opening import OpenRun, last_of, open_run, rank_here
from sft_lightning.runs.profiler import reports
from sft_lightning.runs.rank_failures import Ranks
from sft_lightning.runs.record import Record
from sft_lightning.runs.same_data import left_behind
from sft_lightning.runs.status import FAILED, FINISHED, INTERRUPTED, RUNNING
from sft_lightning.runs.wandb_log import WandbLog


class RunSession:
    """Holds a run while one command works in it.

    Args:
        command: The command as typed, for run.json.
        resume: The run to continue, for fit.
        of_run: The finished run to evaluate, for the other commands.
    """

    def __init__(self, command: str, resume: RunDirectory | None, of_run: RunDirectory | None) -> None:
        self.command, self.resume, self.of_run = command, resume, of_run
        self.rank = rank_here()
        self.stage = "fit"
        self.options = RunOptions()
        self.config: dict[str, Any] = {}
        self.run: OpenRun | None = None
        self.equipment: Equipment | None = None
        self.wandb: WandbLog | None = None
        self.trainer: Trainer | None = None
        self.ranks: Ranks | None = None
        self.undo = ExitStack()
        self.end_process: Callable[[int], None] = lambda code: leave(code, sys.argv[1:])
        """Ends this process where it hangs; preempted, the job comes back all the same"""

    @property
    def directory(self) -> RunDirectory | None:
        """The run's, once it is open."""
        return None if self.run is None else self.run.directory

    @property
    def record(self) -> Record | None:
        """The run's, once it is open."""
        return None if self.run is None else self.run.record

    @property
    def began(self) -> bool:
        """Whether training has begun."""
        return self.equipment is not None and self.equipment.recorder.began

    # ---- opening ----

    def settle_start(
        self, stage: str, options: RunOptions, checkpoint: str | None, weights_only: bool = True
    ) -> tuple[str | None, dict[str, Any] | None]:
        """What to begin from: (the checkpoint's path, the task that it was trained for).

        Nothing is written yet. The task is told where the command is not fit, so that unlabelled data will do.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
            options: With the experiment's name. A sweep's id is filled in.
            checkpoint: Path of a checkpoint, 'last', or none.
            weights_only: Anything but true is refused.
        """
        self.stage = stage
        if stage == "fit" and options.run_id is None:
            options = replace(options, run_id=sweep_run_id())
        self.options = options
        checkpoint, held_run = last_of(options, checkpoint)
        if held_run is not None and self.rank == 0:
            self.resume = held_run
        if not weights_only:
            raise UserError("weights_only", "pickled code in a checkpoint is never run", "leave it true")
        held: dict[str, Any] = {}
        if checkpoint:
            held = read_checkpoint(checkpoint)
            check_same(held.get(CHECKPOINT_KEY), None)
        self.from_checkpoint = bool(checkpoint)
        return checkpoint, None if stage == "fit" else held.get("hyper_parameters", {}).get("task")

    def open(self, config: Mapping[str, Any], **about: Any) -> None:
        """Finds or makes the directory; writes config.yaml and the first run.json.

        Args:
            config: Everything resolved.
            about: Of the run: its variant, network and seed.
        """
        self.run = open_run(self.options, self.rank, self.resume, self.of_run, self.from_checkpoint)
        self.config = redaction.without(dict(config))
        if self.config:
            self.run.write_config(self.config)
        self.run.start(
            self.resume is not None, experiment=self.options.experiment, stage=self.stage, command=self.command, **about
        )
        self._name_job(about)

    def describe(self, config: Mapping[str, Any], **about: Any) -> None:
        """Writes config.yaml and adds to run.json, where they were not known when the run was opened."""
        assert self.run is not None
        self.config = redaction.without(dict(config))
        self.run.write_config(self.config)
        if self.rank == 0:
            self.run.record.update(**about)
        self._name_job(about)

    def _name_job(self, about: Mapping[str, Any]) -> None:
        self.options = replace(self.options, wandb_job_type=self.options.wandb_job_type or about.get("variant"))

    def trainer_arguments(self, given: Any, monitor: RetentionMonitor, wandb_now: bool = True) -> dict[str, Any]:
        """Arguments of Trainer: our callbacks, loggers and way of writing checkpoints beside the user's.

        Args:
            given: The user's arguments of Trainer.
            monitor: Measures what is kept.
            wandb_now: Begin W&B's record here, as the config is known already.
        """
        assert self.run is not None
        self.equipment = Equipment(self.run, self.options, self.stage, given, monitor)
        if wandb_now:
            self.begin_wandb()
        return self.equipment.trainer_arguments(self.wandb)

    def begin_wandb(self) -> None:
        """Begins W&B's record where there is to be one."""
        assert self.run is not None and self.equipment is not None
        if self.equipment.wants_wandb:
            self.wandb = begin_wandb(self.run, self.options, self.config)

    # ---- working ----

    def watch_ranks(self, trainer: Trainer) -> None:
        """Has processes that train together end together; before the others are started."""
        assert self.run is not None
        self.trainer = trainer
        if trainer.world_size == 1 or self.ranks is not None:
            return
        self.ranks = Ranks(self.run.directory.path, self.rank)
        if isinstance(trainer.strategy.launcher, SubprocessLauncher):
            self.adopt_by(self.ranks.adopt)
        self.ranks.watch(self.give_up)
        if self.rank == 0:
            self.ranks.clear()

    def adopt_by(self, adopt: Callable[[Any], None]) -> None:
        """Gives the processes that Lightning starts to `adopt`: its own observer kills rank zero where another fails."""
        name = "_launch_process_observer"
        self.undo.callback(setattr, subprocess_script, name, getattr(subprocess_script, name))
        setattr(subprocess_script, name, adopt)

    def work(self, trainer: Trainer, module: SFTModule, data: LightningDataModule, arguments: dict[str, Any]) -> None:
        """Carries out the command, then what belongs to its end."""
        self.watch_ranks(trainer)
        if self.stage == "predict":
            arguments["return_predictions"] = False
        if self.stage in ("validate", "test"):
            arguments["verbose"] = False
        getattr(trainer, self.stage)(**arguments)
        self.finish(trainer, module, data)

    def finish(self, trainer: Trainer, module: SFTModule, data: LightningDataModule) -> None:
        """After the command: exports and tests what was fitted, and closes the record."""
        assert self.run is not None and self.equipment is not None
        if self.stage == "fit" and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            test = self.options.test_after_fit
            after_fit(trainer, module, data, self.run.directory, self.equipment.recorder, test)
        if not trainer.is_global_zero:
            return
        record = self.run.record
        if self.run.writes:
            record.end(FINISHED)
        else:
            record.write()
        if self.wandb is not None:
            self.wandb.summarise(record.content)
        self.close_wandb(0)
        for report in reports(trainer.profiler):  # type: ignore[attr-defined]
            self.equipment.console.say(f"profile    {report}")
        self.equipment.console.finish(self.stage, record.content)

    # ---- ending early ----

    def settle(self, error: BaseException, code: int) -> int | None:
        """Among several ranks, whose error it was: the exit code where another rank says it; None where this one does."""
        if self.ranks is None:
            self.fail(error)
            return None
        self.ranks.end()
        verdict = self.ranks.settle(error, code)
        if verdict.own:
            self.fail(error)
            return None if verdict.says else verdict.code
        if verdict.code > 128:
            self.fail(Interrupted(verdict.code - 128))
            return verdict.code
        self.fail(UserError(verdict.reason) if verdict.code == 2 else RuntimeError(verdict.reason))
        if verdict.says:
            print(f"sft-lightning: error: {verdict.reason}", file=sys.stderr)
        return verdict.code

    def stopped(self, stop: Interrupted) -> None:
        """After a signal. Where it reached this rank alone, and not in training, the others learn of it by the note."""
        if self.ranks is not None:
            self.ranks.end()
            self.ranks.report(128 + stop.signum, f"Interrupted: {stop}")
        self.fail(stop)

    def say_where(self, wrong: UserError) -> UserError:
        """With a hint where a run is used from another folder than it was made in, and its files are not found here."""
        old = self.resume or self.of_run
        if old is None or self.run is None or self.began:
            return wrong
        hint = left_behind(self.run.record.content, old.config)
        return wrong.with_fix(hint) if hint else wrong

    def give_up(self, why: str, code: int) -> None:
        """The record's last word where this process hangs and is about to be ended."""
        if self.rank == 0 and self.run is not None and self.run.writes:
            with suppress(OSError):
                self.run.record.end(INTERRUPTED if code > 128 else FAILED, reason=why)
        self.end_process(code)

    def fail(self, error: BaseException) -> None:
        """Leaves nothing half-written where the user's input was wrong; else says how the run ended."""
        try:
            if self.run is not None and self.rank == 0 and self.run.writes:
                self._record_failure(self.run, error)
        finally:
            self.close_wandb(1)

    def _record_failure(self, run: OpenRun, error: BaseException) -> None:
        steps = self.trainer.global_step if self.trainer is not None else 0
        # Among several ranks the directory stays: the others read there why they end.
        if isinstance(error, UserError) and run.made_here and not steps and self.ranks is None:
            self.close_wandb(1)
            run.remove()
        elif isinstance(error, UserError) and run.as_found and not self.began:
            run.restore()
        elif run.record.content.get("status") == RUNNING:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            steps = max(steps, run.record.content.get("steps") or 0)  # a resume may not have come so far yet
            with suppress(OSError):  # no room even for this
                run.record.end(INTERRUPTED if stopped else FAILED, reason=reason(error), steps=steps)

    def close(self) -> None:
        """Lets others work in the run directory."""
        self.undo.close()
        if self.equipment is not None and self.equipment.pulse is not None:
            self.equipment.pulse.stop()
        if self.ranks is not None:
            self.ranks.end()
        if self.run is not None:
            self.run.release()

    def close_wandb(self, code: int) -> None:
        """Ends the W&B run, if one was begun."""
        if self.wandb is not None and self.rank == 0:
            self.wandb.close(code)
            self.wandb = None


def reason(error: BaseException) -> str:
    """Why a run ended, for its record."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".rstrip(": ")
