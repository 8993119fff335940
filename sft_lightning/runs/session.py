"""One run from its directory's birth to its last line: what opens, records and closes around Trainer."""

import os
import shutil
import sys
import warnings
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher as SubprocessLauncher

from sft_lightning.callbacks import (
    Bar,
    Checkpoints,
    Console,
    Details,
    Panels,
    Pulse,
    RunRecorder,
    WritePredictions,
)
from sft_lightning.callbacks.checkpoints import link
from sft_lightning.cluster.layout import follow
from sft_lightning.cluster.requeue import leave
from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError
from sft_lightning.core.signals import Interrupted
from sft_lightning.modules.base import CHECKPOINT_KEY, check_same
from sft_lightning.runs import MetricsLog, Record, RunDirectory, create_run
from sft_lightning.runs.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from sft_lightning.runs.directory import experiment_name, run_path, sweep, sweep_run_id, write_atomic
from sft_lightning.runs.lock import RunLock
from sft_lightning.runs.profiler import reports, written_to
from sft_lightning.runs.rank_failures import Ranks
from sft_lightning.runs.record import command_line
from sft_lightning.runs.same_data import left_behind
from sft_lightning.runs.status import FINISHED
from sft_lightning.runs.wandb_log import WandbLog, make_wandb

if TYPE_CHECKING:
    from sft_lightning.cli.fit import SFTCLI

RUN_DIR = "SFT_RUN_DIR"  # tells the processes of the other ranks where rank zero made the directory


class RunSession:
    """Holds a run's directory, record and loggers.

    Args:
        typed: The command line as typed, for run.json.
        resume: The run to go on with, for fit.
        of_run: The finished run to evaluate, for the other commands.
    """

    def __init__(self, typed: list[str], resume: RunDirectory | None, of_run: RunDirectory | None) -> None:
        self.typed, self.resume, self.of_run = typed, resume, of_run
        self.rank = int(next((os.environ[n] for n in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if n in os.environ), "0"))
        self.directory: RunDirectory | None = None
        self.record: Record | None = None
        self.wandb: WandbLog | None = None
        self.trainer: Trainer | None = None
        self.lock: RunLock | None = None
        self.ranks: Ranks | None = None
        self.recorder: RunRecorder | None = None
        self.pulse: Pulse | None = None
        self.as_found: dict[Path, bytes | None] = {}
        """Files of a run that is gone on with, as they were: what refuses it leaves them so"""
        self.undo = ExitStack()

    @property
    def made_here(self) -> bool:
        return self.resume is None and self.of_run is None and self.rank == 0

    def open(self, cli: "SFTCLI") -> None:
        """Finds or makes the directory; writes config.yaml and the first run.json."""
        settings = self.settings = cli.settings
        if settings.experiment is None:
            settings.experiment = self.of_run.experiment if self.of_run else experiment_name(cli.arguments)
        root = settings.runs_dir or os.environ.get("SFT_RUNS_DIR") or "runs"
        if cli.config.subcommand == "fit" and settings.run_id is None:
            settings.run_id = sweep_run_id()
        self.find_last(root)
        checkpoint = settings.get("ckpt_path")
        if not settings.weights_only:
            raise UserError("weights_only: pickled code in a checkpoint is never run: leave it true")
        if checkpoint:
            held = read_checkpoint(checkpoint)
            check_same(held.get(CHECKPOINT_KEY), None)
        if cli.config.subcommand != "fit":
            self.know_the_task(held if checkpoint else {})
        existing = self.resume or self.of_run
        if existing is not None:
            self.directory = existing
        elif self.rank and RUN_DIR in os.environ:
            self.directory = RunDirectory(Path(os.environ[RUN_DIR]))
        else:
            if launched() > 1 and settings.run_id is None:
                raise UserError(f"run_id: {launched()} processes were launched together: name their run by --run_id")
            if self.rank:
                self.directory = RunDirectory(Path(root) / settings.experiment / str(settings.run_id))
            else:
                self.directory = create_run(root, settings.experiment, settings.run_id)
        os.environ[RUN_DIR] = str(self.directory.path)
        if self.rank == 0:
            self.lock = RunLock(self.directory.path)
            self.lock.take()
            if self.resume is not None:
                sweep(self.directory.path)
        if self.resume is not None and self.rank == 0:
            files = (self.directory.config, self.directory.record)
            self.as_found = {file: file.read_bytes() if file.is_file() else None for file in files}
        self.config = redaction.without(cli.saved_config())
        if existing is not None and existing.record.is_file():
            self.record = Record.read(existing.record)
        else:
            self.record = Record(self.directory.record)
        self.goes_on = self.resume is not None and bool(checkpoint)
        if self.rank == 0:
            if self.of_run is None:  # after a resume too: what was overridden is what the run became
                write_atomic(self.directory.config, yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True))
            if self.resume is not None:
                self.record.content["resumed"] = self.record.content.get("resumed", 0) + 1
                for name in (
                    "test",
                    "measured",
                    "never_beat_start",
                ):  # said of checkpoints that are about to be outdone
                    self.record.content.pop(name, None)
                if not self.goes_on:  # it ended before anything was saved, and begins again
                    self.record.content["metrics"] = {}
                    for name in ("steps", "selected", "data", "retention", "metric_info", "primary"):
                        self.record.content.pop(name, None)
                    self.directory.metrics.unlink(missing_ok=True)
            if self.of_run is None:
                self.record.content.setdefault("cwd", os.getcwd())
                self.record.start(
                    experiment=settings.experiment,
                    run_id=self.directory.run_id,
                    stage=cli.config.subcommand,
                    variant=settings.model.class_path.rpartition(".")[2],
                    network=settings.network.class_path.rpartition(".")[2],
                    seed=settings.seed_everything,
                    command=command_line(self.typed),
                )
        self.stage = str(cli.config.subcommand)
        self.monitor = cli.source

    def find_last(self, root: str) -> None:
        """`--run_id NAME --ckpt_path last`: that run, where it left off; from the beginning where there is nothing yet."""
        settings, checkpoint = self.settings, self.settings.get("ckpt_path")
        if checkpoint in ("best", "hpc") or (checkpoint == "last" and settings.run_id is None):
            raise UserError(
                f"ckpt_path: of which run is '{checkpoint}'? Use fit --resume RUN_DIR, or --run_id NAME with ckpt_path "
                "last; for the other commands --run RUN_DIR"
            )
        if checkpoint != "last":
            return
        run = RunDirectory(run_path(root, settings.experiment, settings.run_id))
        settings.ckpt_path = str(run.last) if run.last.is_file() else None
        if run.path.is_dir() and self.rank == 0:
            self.resume = run

    def know_the_task(self, checkpoint: dict[str, Any]) -> None:
        """Takes what is predicted from the run or the checkpoint, so that unlabelled data will do."""
        task = checkpoint.get("hyper_parameters", {}).get("task")
        if task:
            self.settings.model.init_args.task = task

    def trainer_arguments(self, given: Any) -> dict[str, Any]:
        """Our callbacks, loggers and checkpoint writing beside the user's."""
        assert self.directory is not None
        assert self.record is not None
        settings, run = self.settings, self.directory
        wanted = given.get("enable_progress_bar") is not False
        bar = on_terminal() and not settings.quiet and wanted
        theirs_first = self.with_bars(as_list(given.get("callbacks")), bar)
        own_bar = bar and not any(isinstance(c, ProgressBar) for c in theirs_first)
        if not bar and not settings.quiet and self.rank == 0:
            self.pulse = Pulse()
            self.pulse.start()
        self.console = Console(str(run.path), quiet=settings.quiet, bar=bar, pulse=self.pulse)
        self.recorder = RunRecorder(self.record, settings.select_by, settings.test_after_fit, self.goes_on)
        callbacks: list[Callback] = [
            *([self.pulse] if self.pulse else []),
            self.monitor(),
            *([Panels()] if settings.wandb != "disabled" else []),
            self.recorder,
            self.console,
            *([Bar()] if own_bar else []),
        ]
        loggers: list[Logger] = []
        if self.stage == "fit":
            every = {"every_n_steps": settings.save_every_n_steps, "every_minutes": settings.save_every_minutes}
            callbacks.append(Checkpoints(run, self.recorder, **every))
            loggers.append(MetricsLog(run.metrics))
        if self.stage == "predict":
            callbacks.append(WritePredictions(run.predictions))
        else:
            callbacks.append(Details(run.details, "val" if self.stage == "validate" else "test"))
        if settings.wandb != "disabled" and self.stage != "predict" and not given.get("fast_dev_run"):
            self.wandb = self.begin_wandb()
            loggers.append(self.wandb)
        theirs = given.get("logger")
        loggers += [] if theirs in (None, True, False) else theirs if isinstance(theirs, list) else [theirs]
        layout = follow(given)
        plugins = [*as_list(given.get("plugins") or []), *layout.pop("plugins", [])]
        return {
            **layout,
            "callbacks": [*theirs_first, *callbacks],
            "profiler": written_to(given.get("profiler"), run.path),
            "logger": loggers,
            "default_root_dir": str(run.path),
            "enable_progress_bar": bar,
            "enable_checkpointing": self.stage == "fit",
            "plugins": [*plugins, AtomicCheckpointIO()],
            "use_distributed_sampler": False,
        }

    def with_bars(self, callbacks: list[Callback], shown: bool) -> list[Callback]:
        """The user's callbacks; progress bars among them only where one can be shown."""
        kept = [c for c in callbacks if shown or not isinstance(c, ProgressBar)]
        if self.rank == 0 and not self.settings.quiet:
            for bar in (c for c in callbacks if c not in kept):
                name, why = type(bar).__name__, "trainer.enable_progress_bar is false"
                why = why if on_terminal() else "the output is not a terminal"
                print(f"sft-lightning: note: trainer.callbacks: {name} is left out: {why}", file=sys.stderr, flush=True)
        return kept

    def begin_wandb(self) -> WandbLog:
        """Online where asked for; offline where no server answers and `wandb_fallback` allows it."""
        assert self.directory is not None
        online = self.settings.wandb == "online"
        try:
            return make_wandb(self.settings, self.directory, self.config, online=online, rank=self.rank)
        except UserError as error:
            if not online or self.settings.wandb_fallback is None:
                raise
            warnings.warn(f"{error.args[0].partition('; use')[0]}: recording offline, `wandb sync` sends it later")
        return make_wandb(self.settings, self.directory, self.config, online=False, rank=self.rank)

    def run(self, cli: "SFTCLI", command: str, kwargs: dict[str, Any]) -> None:
        """The command itself, then what belongs to its end."""
        assert self.directory is not None
        assert self.record is not None
        self.trainer = cli.trainer
        if cli.trainer.world_size > 1:
            self.ranks = Ranks(self.directory.path, self.rank)
            launcher = cli.trainer.strategy.launcher
            if isinstance(launcher, SubprocessLauncher):  # its observer would kill rank zero where another fails
                name = "_launch_process_observer"
                self.undo.callback(setattr, subprocess_script, name, getattr(subprocess_script, name))
                setattr(subprocess_script, name, self.ranks.adopt)
            self.ranks.watch(self.give_up)
            if self.rank == 0:
                self.ranks.clear()
        if command == "predict":
            kwargs["return_predictions"] = False
        if command in ("validate", "test"):
            kwargs["verbose"] = False
        getattr(cli.trainer, command)(**kwargs)
        if command == "fit" and not cli.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.after_fit(cli)
        if cli.trainer.is_global_zero:
            if self.of_run is None:
                self.record.end(FINISHED)
            else:
                self.record.write()
            if self.wandb is not None:
                self.wandb.summarise(self.record.content)
            self.close_wandb(0)
            for report in reports(cli.trainer.profiler):  # type: ignore[attr-defined]
                self.console.say(f"profile    {report}")
            self.console.finish(command, self.record.content)

    def after_fit(self, cli: "SFTCLI") -> None:
        """Exports the best model; measures it on the test split where asked."""
        from sft_lightning.export import export_best

        assert self.directory is not None
        run, trainer = self.directory, cli.trainer
        self.measure_the_end(cli)
        best = run.best if run.best.is_file() else run.last
        if trainer.is_global_zero and best.is_file():
            export_best(cli.model, best, run.model)
        trainer.strategy.barrier()
        if self.settings.test_after_fit:
            trainer.test(cli.model, datamodule=cli.datamodule, ckpt_path=str(best), verbose=False, weights_only=True)

    def measure_the_end(self, cli: "SFTCLI") -> None:
        """Validates once more where training ended between two validations."""
        assert self.directory is not None
        run, trainer, recorder = self.directory, cli.trainer, self.recorder
        assert recorder is not None
        recorder.end_of_fit(trainer)
        if not run.last.is_file():
            trainer.save_checkpoint(run.last)
        if trainer.strategy.broadcast(recorder.measured_at) != trainer.global_step and "val" in cli.datamodule.splits:
            recorder.closing = True
            trainer.validate(cli.model, datamodule=cli.datamodule, verbose=False)
            recorder.closing = False
            if trainer.is_global_zero and recorder.is_best:
                link(run.last, run.best)
        recorder.judge_the_start(trainer, cli.model)

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
        run = self.resume or self.of_run
        if run is None or self.record is None or (self.recorder and self.recorder.began):
            return wrong
        hint = left_behind(self.record.content, run.config)
        return UserError(f"{wrong}{hint}") if hint else wrong

    def give_up(self, why: str, code: int) -> None:
        """The record's last word where this process hangs and is about to be ended."""
        if self.rank == 0 and self.record is not None and self.of_run is None:
            with suppress(OSError):
                self.record.end("interrupted" if code > 128 else "failed", reason=why)
        leave(code, sys.argv[1:])  # preempted, the job comes back all the same

    def fail(self, error: BaseException) -> None:
        """Leaves nothing half-written where the user's input was wrong; else says how the run ended."""
        try:
            self._record_failure(error)
        finally:
            self.close_wandb(1)

    def _record_failure(self, error: BaseException) -> None:
        trained = self.trainer is not None and self.trainer.global_step > 0
        if self.rank or self.directory is None or self.record is None or self.of_run is not None:
            return
        # Among several ranks the directory stays: the others read there why they end.
        if isinstance(error, UserError) and self.made_here and not trained and self.ranks is None:
            self.close_wandb(1)
            shutil.rmtree(self.directory.path, ignore_errors=True)
            for parent in (self.directory.path.parent, self.directory.path.parent.parent):
                try:
                    parent.rmdir()  # only where it is empty
                except OSError:
                    break
        elif isinstance(error, UserError) and self.as_found and not (self.recorder and self.recorder.began):
            for file, content in self.as_found.items():
                if content is None:
                    file.unlink(missing_ok=True)
                else:
                    write_atomic(file, content)
        elif self.record.content.get("status") == "running":
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            with suppress(OSError):  # no room even for this
                steps = self.trainer.global_step if self.trainer is not None else 0
                steps = max(steps, self.record.content.get("steps") or 0)  # a resume may not have come so far yet
                self.record.end("interrupted" if stopped else "failed", reason=reason(error), steps=steps)

    def close(self) -> None:
        """Lets others work in the run directory."""
        self.undo.close()
        if self.pulse is not None:
            self.pulse.stop()
        if self.ranks is not None:
            self.ranks.end()
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def close_wandb(self, code: int) -> None:
        """Ends the W&B run, if one was begun."""
        if self.wandb is not None and self.rank == 0:
            self.wandb.close(code)
            self.wandb = None


def reason(error: BaseException) -> str:
    """Why a run ended, for its record."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".rstrip(": ")


def launched() -> int:
    """Processes that torchrun or srun started together; 1 where Lightning starts the others itself, or there are none."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_STEP_ID" in os.environ else 1


def on_terminal() -> bool:
    """Whether somebody sees what is printed as it comes."""
    return sys.stdout.isatty()


def as_list(value: Any) -> list[Any]:
    """None, one or several, as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
