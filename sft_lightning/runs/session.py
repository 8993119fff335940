"""RunSession, one command's work in a run: opens its directory, equips Trainer, and closes it however it ends.

The command line and `runs/python.py` use it: it takes plain values and returns arguments of Trainer.
"""

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher as SubprocessLauncher

from sft_lightning.cluster.layout import await_nodes
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
        resume: The run to resume, for fit.
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
        """Ends this process if it hangs; after a preemption the job is still requeued"""

    @property
    def directory(self) -> RunDirectory | None:
        """The run's directory, once it is open."""
        return None if self.run is None else self.run.directory

    @property
    def record(self) -> Record | None:
        """The run's record, once it is open."""
        return None if self.run is None else self.run.record

    @property
    def began(self) -> bool:
        """Whether training has begun."""
        return self.equipment is not None and self.equipment.recorder.began

    # ---- opening ----

    def settle_start(
        self, stage: str, options: RunOptions, checkpoint: str | None, weights_only: bool = True
    ) -> tuple[str | None, dict[str, Any] | None]:
        """Decides what to start from. Returns (the checkpoint's path, the task it was trained for); writes nothing.

        The task is None for fit. Other commands get it from the checkpoint, so that they accept unlabelled data.

        Args:
            stage: 'fit', 'validate', 'test' or 'predict'.
            options: The run's options, with the experiment's name. The id of a sweep is filled in.
            checkpoint: Path of a checkpoint, 'last', or None.
            weights_only: Must be true.
        """
        self.stage = stage
        if stage == "fit" and options.run_id is None:
            options = replace(options, run_id=sweep_run_id())
        self.options = options
        checkpoint, held_run = last_of(options, checkpoint)
        if held_run is not None and self.rank == 0:
            self.resume = held_run
        if not weights_only:
            raise UserError(
                "weights_only", "must be true, as pickled code in a checkpoint is never run", "leave it out"
            )
        held: dict[str, Any] = {}
        if checkpoint:
            held = read_checkpoint(checkpoint)
            check_same(held.get(CHECKPOINT_KEY), None)
        self.from_checkpoint = bool(checkpoint)
        return checkpoint, None if stage == "fit" else held.get("hyper_parameters", {}).get("task")

    def open(self, config: Mapping[str, Any], **about: Any) -> None:
        """Finds or makes the directory; writes config.yaml and the first run.json.

        Args:
            config: The resolved config.
            about: Variant, network and seed of the run.
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
        """Writes config.yaml and adds to run.json facts that were unknown when the run was opened."""
        assert self.run is not None
        self.config = redaction.without(dict(config))
        self.run.write_config(self.config)
        if self.rank == 0:
            self.run.record.update(**about)
        self._name_job(about)

    def _name_job(self, about: Mapping[str, Any]) -> None:
        self.options = replace(self.options, wandb_job_type=self.options.wandb_job_type or about.get("variant"))

    def trainer_arguments(self, given: Any, monitor: RetentionMonitor, wandb_now: bool = True) -> dict[str, Any]:
        """Returns arguments of Trainer: the user's, with our callbacks, loggers and checkpoint writing.

        Args:
            given: The user's arguments of Trainer.
            monitor: Measures what is kept.
            wandb_now: Begin W&B's record now, because the config is known already.
        """
        assert self.run is not None
        self.equipment = Equipment(self.run, self.options, self.stage, given, monitor)
        if wandb_now:
            self.begin_wandb()
        return self.equipment.trainer_arguments(self.wandb)

    def begin_wandb(self) -> None:
        """Begins W&B's record if this command has one."""
        assert self.run is not None and self.equipment is not None
        if self.equipment.wants_wandb:
            self.wandb = begin_wandb(self.run, self.options, self.config)

    # ---- working ----

    def watch_ranks(self, trainer: Trainer) -> None:
        """Makes all ranks end together if one fails. Must be called before the other ranks are started."""
        assert self.run is not None
        self.trainer = trainer
        if trainer.world_size == 1 or self.ranks is not None:
            return
        environment: Any = getattr(trainer.strategy, "cluster_environment", None)
        waits = await_nodes(environment, trainer.num_nodes)
        if waits is not None and environment.local_rank() == 0:
            print(f"sft-lightning: note: {waits}", file=sys.stderr, flush=True)
        self.ranks = Ranks(self.run.directory.path, self.rank)
        if isinstance(trainer.strategy.launcher, SubprocessLauncher):
            self.adopt_by(self.ranks.adopt)
        self.ranks.watch(self.give_up)
        if self.rank == 0:
            self.ranks.clear()

    def adopt_by(self, adopt: Callable[[Any], None]) -> None:
        """Passes the processes that Lightning starts to `adopt` instead of its observer, which kills rank zero if one fails."""
        name = "_launch_process_observer"
        self.undo.callback(setattr, subprocess_script, name, getattr(subprocess_script, name))
        setattr(subprocess_script, name, adopt)

    def work(self, trainer: Trainer, module: SFTModule, data: LightningDataModule, arguments: dict[str, Any]) -> None:
        """Runs the command and finishes the run."""
        self.watch_ranks(trainer)
        if self.stage == "predict":
            arguments["return_predictions"] = False
        if self.stage in ("validate", "test"):
            arguments["verbose"] = False
        getattr(trainer, self.stage)(**arguments)
        self.finish(trainer, module, data)

    def finish(self, trainer: Trainer, module: SFTModule, data: LightningDataModule) -> None:
        """Exports and tests the fitted model, and closes the record."""
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
        """Records the error of this or another rank. Returns the exit code, or None if this rank prints the error."""
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
        """Records that a signal stopped the run, and leaves a note for ranks that the signal did not reach."""
        if self.ranks is not None:
            self.ranks.end()
            self.ranks.report(128 + stop.signum, f"Interrupted: {stop}")
        self.fail(stop)

    def say_where(self, wrong: UserError) -> UserError:
        """Adds a hint to an error if the run was made in another folder, whose files are not found here."""
        old = self.resume or self.of_run
        if old is None or self.run is None or self.began:
            return wrong
        hint = left_behind(self.run.record.content, old.config)
        return wrong.with_fix(hint) if hint else wrong

    def give_up(self, why: str, code: int) -> None:
        """Records why this process, which hangs, is ended, and ends it."""
        if self.rank == 0 and self.run is not None and self.run.writes:
            with suppress(OSError):
                self.run.record.end(INTERRUPTED if code > 128 else FAILED, reason=why)
        self.end_process(code)

    def fail(self, error: BaseException) -> None:
        """Removes or restores the run's files if the user's input was wrong; else records how the run ended."""
        try:
            if self.run is not None and self.rank == 0 and self.run.writes:
                self._record_failure(self.run, error)
        finally:
            self.close_wandb(1)

    def _record_failure(self, run: OpenRun, error: BaseException) -> None:
        steps = self.trainer.global_step if self.trainer is not None else 0
        # With several ranks the directory stays: the others read the reason there.
        if isinstance(error, UserError) and run.made_here and not steps and self.ranks is None:
            self.close_wandb(1)
            run.remove()
        elif isinstance(error, UserError) and run.as_found and not self.began:
            run.restore()
        elif run.record.content.get("status") == RUNNING:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            steps = max(
                steps, run.record.content.get("steps") or 0
            )  # a resumed run may have failed before its last step
            with suppress(OSError):  # the disk is full
                run.record.end(INTERRUPTED if stopped else FAILED, reason=reason(error), steps=steps)

    def close(self) -> None:
        """Releases the run directory and stops the threads of this session."""
        self.undo.close()
        if self.equipment is not None and self.equipment.pulse is not None:
            self.equipment.pulse.stop()
        if self.ranks is not None:
            self.ranks.end()
        if self.run is not None:
            self.run.release()

    def close_wandb(self, code: int) -> None:
        """Ends the W&B run, if there is one."""
        if self.wandb is not None and self.rank == 0:
            self.wandb.close(code)
            self.wandb = None


def reason(error: BaseException) -> str:
    """Returns the reason of a run's end, for its record."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".rstrip(": ")
