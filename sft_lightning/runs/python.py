"""`sft_lightning.run`: a run from Python, with the same directory that `fit` would make.

    with sft_lightning.run("digits-distill", retention=Digits(classes=old)) as run:
        Trainer(**run.trainer_kwargs(max_epochs=80)).fit(module, datamodule=data)

All commands can read that directory.
"""

import os
import shlex
import sys
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import torch.distributed
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback

from sft_lightning import callbacks
from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.callbacks.of_lightning import refuse_arguments
from sft_lightning.config.options import NOT_WRITTEN, OPTIONS, RunOptions, monitored
from sft_lightning.config.parser import TRAINER_DEFAULTS, command_parser
from sft_lightning.config.resolve import reading
from sft_lightning.config.validation import refuse_own
from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.signals import SIGNALS, Interrupted
from sft_lightning.data.base import SFTDataModule
from sft_lightning.modules.base import SFTModule
from sft_lightning.runs.directory import RunDirectory
from sft_lightning.runs.equipment import as_list, keep_signals
from sft_lightning.runs.opening import RUN_DIR
from sft_lightning.runs.rank_failures import LAUNCH, launch_id
from sft_lightning.runs.session import RunSession
from sft_lightning.runs.written import config_of


class PythonRun:
    """One fit with a run directory, from Python: use it as `with run(…) as …`.

    Entering seeds everything, makes the directory and locks it. Leaving exports the best model, tests it if asked, and
    closes run.json. An exception in the block marks the run as failed or interrupted and is raised. Each block holds one
    fit. In a script signals work as with the command: SIGTERM and Ctrl-C stop at a step's end with last.ckpt saved, and
    the script exits with 143 or 130.

    Args:
        experiment: Name of the experiment.
        retention: The source task's data, to measure what is kept.
        seed: Seed of initialisation, order and augmentation; default the last seed given to seed_everything, else 0.
        signals: Whether to handle signals; default yes in a script's main thread, no at a prompt and in a notebook.
        options: The options of `fit` with the same names, defaults and meaning; see `config/options.py`.

    Raises:
        UserError: On entering, if the directory exists or another run is open in this process.
    """

    _open: ClassVar["PythonRun | None"] = None
    _children: ClassVar[list[Any]] = []
    """Processes that Lightning started for the other ranks; they live as long as the script"""

    def __init__(
        self,
        experiment: str,
        *,
        retention: SFTDataModule | None = None,
        seed: int | None = None,
        signals: bool | None = None,
        **options: Any,
    ) -> None:
        check_options(options)
        self.options, self.retention = RunOptions(experiment=experiment, **options), retention
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        in_script = not hasattr(sys, "ps1") and "ipykernel" not in sys.modules
        self.signals = in_script if signals is None else signals
        self.session = RunSession(said_command(), None, None)
        self.session.end_process = os._exit
        self._given: dict[str, Any] | None = None
        self.fitted: tuple[Trainer, SFTModule, SFTDataModule] | None = None
        """(trainer, module, data) of the fit, once it has begun"""

    # ---- for the user ----

    @property
    def directory(self) -> RunDirectory:
        """The run's files."""
        if self.session.directory is None:
            raise UserError("run", "has no directory yet", "use it as `with sft_lightning.run(…) as run:`")
        return self.session.directory

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.directory.path

    def trainer_kwargs(self, **given: Any) -> dict[str, Any]:
        """Returns arguments of Trainer: yours, and the callbacks, loggers and settings of the run.

        Args:
            given: Your arguments of Trainer. Give callbacks, loggers and plugins as class_path and init_args (see
                `spec`): objects cannot be written to config.yaml, so `fit --config` would refuse it.

        Raises:
            UserError: An argument has no effect, or the run sets it itself.
        """
        if self._given is not None or PythonRun._open is not self:
            raise UserError("trainer_kwargs", "was called twice or outside the block", "call it once in each block")
        self._given = {**TRAINER_DEFAULTS, **given}
        refuse_arguments(self._given)
        ours = {**self._given, **{n: built(self._given[n]) for n in BUILT if n in self._given}}
        for callback in as_list(ours.get("callbacks")):
            if type(callback).__module__.startswith("sft_lightning."):
                refuse_own(f"sft_lightning.callbacks.{type(callback).__name__}")
        monitor = RetentionMonitor(self.retention, **monitored(self.options))
        arguments = {**ours, **self.session.trainer_arguments(ours, monitor, wandb_now=False)}
        arguments["callbacks"] = [FitBegins(self), *arguments["callbacks"]]
        return arguments

    # ---- the block ----

    def __enter__(self) -> "PythonRun":
        if PythonRun._open is not None:
            raise UserError("run", f"{PythonRun._open.path} is still open in this process", "leave its block first")
        launch_id()  # the processes that Lightning will start read it
        seed_everything(self.seed, workers=True, verbose=False)
        self._open_together()
        PythonRun._open = self
        if self.signals:
            SIGNALS.install()
        else:
            SIGNALS.begin()
        self.session.adopt_by(self._adopt)
        return self

    def _open_together(self) -> None:
        """Opens the directory. If processes already train together, rank zero sends its path to the others."""
        rank, told = self.session.rank, list[str | None]([None])
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        if together and rank:
            torch.distributed.broadcast_object_list(told)
            if told[0] is None:
                raise UserError("run", "rank 0 could not open the run's directory")
            os.environ[RUN_DIR] = told[0]
        try:
            self.session.settle_start("fit", self.options, None)
            self.session.open({}, seed=self.seed)
            told = [str(self.path)]
        finally:
            if together and not rank:
                torch.distributed.broadcast_object_list(told)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                try:
                    self._finish()
                except BaseException as late:
                    error = late
                    self._end_early(late)
                    raise
            else:
                self._end_early(error)
        finally:
            self._close()

    def begin(self, trainer: Trainer, module: LightningModule) -> None:
        """Writes config.yaml and begins W&B's record. Called as a fit begins: data is loaded, the network is not built."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(module, SFTModule):
            raise UserError("fit", f"the module must be an SFTModule, got {type(module).__name__}")
        if not isinstance(data, SFTDataModule):
            raise UserError(
                "fit", f"datamodule must be an SFTDataModule, got {type(data).__name__}", "pass it as datamodule="
            )
        if self.fitted is not None:
            raise UserError("run", "a second fit began in the block", "open another run for it")
        self.fitted = trainer, module, data
        if SIGNALS.installed:
            keep_signals(trainer)
        session = self.session
        assert self._given is not None
        session.watch_ranks(trainer)
        if session.ranks is not None:
            session.ranks.adopt(PythonRun._children)
        config = config_of(module, data, self.retention, self._given, self.options, self.seed)
        about: dict[str, Any] = {"variant": type(module).__name__, "network": network_name(module)}
        if NOT_WRITTEN in config:
            about[NOT_WRITTEN] = config[NOT_WRITTEN]
        session.describe(config, **about)
        session.begin_wandb()
        if session.wandb is not None:
            trainer.loggers = [*trainer.loggers, session.wandb]

    def _adopt(self, children: list[Any]) -> None:
        PythonRun._children = list(children)

    def _finish(self) -> None:
        if self.fitted is None:
            raise UserError(
                "run", "nothing was fitted in the block", "call Trainer(**run.trainer_kwargs(…)).fit(module, data)"
            )
        self.session.finish(*self.fitted)

    def _end_early(self, error: BaseException) -> None:
        """Records how the run ended; raises SystemExit if the script must exit with a special code."""
        session = self.session
        if isinstance(error, Interrupted):
            session.stopped(error)
            raise SystemExit(error.exit_code) from None
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            session.fail(error.__context__)  # Lightning turns Ctrl-C into SystemExit
            raise KeyboardInterrupt from None
        code = session.settle(error, 2 if isinstance(error, UserError) else 1)
        if code is not None:  # another rank failed and prints the error
            raise SystemExit(code) from None

    def _close(self) -> None:
        self.session.close()
        PythonRun._open = None
        for name in (RUN_DIR, LAUNCH):
            os.environ.pop(name, None)
        if SIGNALS.installed:
            SIGNALS.restore()


run = PythonRun


class FitBegins(Callback):
    """Tells a run when its fit begins."""

    def __init__(self, of: PythonRun) -> None:
        self.run = of

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self.run.begin(trainer, pl_module)


BUILT = ("callbacks", "logger", "plugins", "profiler", "strategy")
"""Arguments of Trainer that accept class_path and init_args"""


def built(value: Any) -> Any:
    """Builds the object, or list of objects, that class_path and init_args describe; returns any other value unchanged."""
    if isinstance(value, list | tuple):
        return [built(held) for held in value]
    if not isinstance(value, dict) or "class_path" not in value:
        return value
    module, _, name = value["class_path"].rpartition(".")
    try:
        home = module or ("sft_lightning.callbacks" if name in callbacks.__all__ else "lightning.pytorch.callbacks")
        return getattr(import_module(home), name)(**value.get("init_args", {}))
    except (ImportError, AttributeError) as error:
        raise UserError("trainer", f"class '{value['class_path']}' cannot be built: {error}") from None


def network_name(module: SFTModule) -> str:
    """Returns the class name of a module's network."""
    return str(module.hparams["network"]["class_path"]).rpartition(".")[2]


def said_command() -> str:
    """Returns the script and its arguments, without secrets."""
    return shlex.join([Path(sys.executable).name, *redaction.without_in_arguments(sys.argv)])


def check_options(options: dict[str, Any]) -> None:
    """Raises UserError for an unknown option of a run, or one whose value does not fit."""
    for name in options:
        if name not in RunOptions.__dataclass_fields__ or name == "experiment":
            known = [option for option, *_ in OPTIONS if option != "experiment"]
            raise UserError(name, f"run has no such option{nearest(name, known)}", f"choose {', '.join(known)}")
    parser = command_parser("fit")[0]
    with reading(parser):
        parser.parse_object(options, defaults=False, _skip_validation=True)
