"""Adds to Trainer what a run needs: callbacks, loggers, checkpoint writing, and the settings that Slurm determines."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger

from sft_lightning.callbacks import Bar, Checkpoints, Console, Details, Panels, Pulse, RunRecorder, WritePredictions
from sft_lightning.cluster.layout import follow
from sft_lightning.config.options import RunOptions
from sft_lightning.core.errors import UserError
from sft_lightning.evaluation.retention import RetentionMonitor
from sft_lightning.runs.checkpoint_io import AtomicCheckpointIO
from sft_lightning.runs.metrics_log import MetricsLog
from sft_lightning.runs.opening import OpenRun
from sft_lightning.runs.profiler import written_to
from sft_lightning.runs.wandb_log import WandbLog, make_wandb


@dataclass
class Equipment:
    """The callbacks, loggers and plugins that watch and record a run while Trainer works.

    Args:
        run: The open run.
        options: The options of the run.
        stage: 'fit', 'validate', 'test' or 'predict'.
        given: Arguments of Trainer as the user gave them.
        monitor: Measures the source task.
    """

    run: OpenRun
    options: RunOptions
    stage: str
    given: Any
    monitor: RetentionMonitor

    def __post_init__(self) -> None:
        options, path = self.options, str(self.run.directory.path)
        self.bar = on_terminal() and not options.quiet and self.given.get("enable_progress_bar") is not False
        self.pulse: Pulse | None = None
        self.recorder = RunRecorder(
            self.run.record, options.select_by, options.test_after_fit, self.run.goes_on, self.monitor
        )
        if not self.bar and not options.quiet and self.run.rank == 0:
            self.pulse = Pulse()
            self.pulse.start()
        self.console = Console(path, quiet=options.quiet, bar=self.bar, pulse=self.pulse, monitor=self.monitor)

    @property
    def wants_wandb(self) -> bool:
        """Whether W&B records this command."""
        return self.options.wandb != "disabled" and self.stage != "predict" and not self.given.get("fast_dev_run")

    def trainer_arguments(self, wandb: WandbLog | None) -> dict[str, Any]:
        """Returns our callbacks and loggers together with the user's, and the arguments that a run sets itself."""
        theirs = self._with_bars(as_list(self.given.get("callbacks")))
        own_bar = self.bar and not any(isinstance(c, ProgressBar) for c in theirs)
        callbacks: list[Callback] = [
            *([self.pulse] if self.pulse else []),
            self.monitor,
            *([Panels()] if self.options.wandb != "disabled" else []),
            self.recorder,
            self.console,
            *([Bar()] if own_bar else []),
            *self._of_stage(),
        ]
        layout = follow(self.given)
        plugins = [*as_list(self.given.get("plugins") or []), *layout.pop("plugins", [])]
        return {
            **layout,
            "callbacks": [*theirs, *callbacks],
            "profiler": written_to(self.given.get("profiler"), self.run.directory.path),
            "logger": self._loggers(wandb),
            "default_root_dir": str(self.run.directory.path),
            "enable_progress_bar": self.bar,
            "enable_checkpointing": self.stage == "fit",
            "plugins": [*plugins, AtomicCheckpointIO()],
            "use_distributed_sampler": False,
        }

    def _of_stage(self) -> list[Callback]:
        """Returns the callbacks that write this command's files."""
        run, options, callbacks = self.run.directory, self.options, list[Callback]()
        if self.stage == "fit":
            steps, minutes = options.save_every_n_steps, options.save_every_minutes
            callbacks.append(Checkpoints(run, self.recorder, every_n_steps=steps, every_minutes=minutes))
        if self.stage == "predict":
            callbacks.append(WritePredictions(run.predictions))
        else:
            callbacks.append(Details(run.details, "val" if self.stage == "validate" else "test", monitor=self.monitor))
        return callbacks

    def _loggers(self, wandb: WandbLog | None) -> list[Logger]:
        theirs = self.given.get("logger")
        return [
            *([MetricsLog(self.run.directory.metrics)] if self.stage == "fit" else []),
            *([wandb] if wandb is not None else []),
            *([] if theirs in (None, True, False) else as_list(theirs)),
        ]

    def _with_bars(self, callbacks: list[Callback]) -> list[Callback]:
        """Returns the user's callbacks, without progress bars if none can be shown."""
        kept = [c for c in callbacks if self.bar or not isinstance(c, ProgressBar)]
        if self.run.rank == 0 and not self.options.quiet:
            for bar in (c for c in callbacks if c not in kept):
                name, why = type(bar).__name__, "trainer.enable_progress_bar is false"
                why = why if on_terminal() else "the output is not a terminal"
                print(f"sft-lightning: note: trainer.callbacks: {name} is left out: {why}", file=sys.stderr, flush=True)
        return kept


def begin_wandb(run: OpenRun, options: RunOptions, config: dict[str, Any]) -> WandbLog:
    """Begins W&B's record online if asked, and falls back to offline if no server answers and `wandb_fallback` allows it."""
    online = options.wandb == "online"
    try:
        return make_wandb(options, run.directory, config, online=online, rank=run.rank)
    except UserError as error:
        if not online or options.wandb_fallback is None:
            raise
        warnings.warn(f"{error.key}: {error.problem}: recording offline, `wandb sync` sends it later")
    return make_wandb(options, run.directory, config, online=False, rank=run.rank)


def keep_signals(trainer: Trainer) -> None:
    """Keeps our signal handlers while the trainer works: Lightning would replace them."""
    nothing: Callable[[], None] = lambda: None  # noqa: E731
    trainer._signal_connector.register_signal_handlers = nothing  # type: ignore[method-assign]


def on_terminal() -> bool:
    """Tells whether the output goes to a terminal."""
    return sys.stdout.isatty()


def as_list(value: Any) -> list[Any]:
    """Returns None, one item or several as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
