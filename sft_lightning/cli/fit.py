"""SFTCLI: LightningCLI with data × network × variant, our run directory, and errors in one line."""

import errno
import os
import pickle
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.callbacks.monitored import say_modes
from sft_lightning.cli.quiet import quieten
from sft_lightning.config import given
from sft_lightning.config.files import allow_on_as_key, check_values, check_yaml
from sft_lightning.config.library_errors import refused
from sft_lightning.config.options import options_of, underscored
from sft_lightning.config.parser import command_parser
from sft_lightning.config.parser_errors import explain
from sft_lightning.config.resolve import as_plain, check, keys_of
from sft_lightning.core import redaction
from sft_lightning.core.environment_errors import end_processes, machine_fault, unwritable
from sft_lightning.core.errors import UserError
from sft_lightning.core.signals import Interrupted
from sft_lightning.data.base import SFTDataModule
from sft_lightning.evaluation.source_data import SourceData
from sft_lightning.modules import SFTModule
from sft_lightning.runs import RunDirectory
from sft_lightning.runs.directory import experiment_name
from sft_lightning.runs.equipment import keep_signals
from sft_lightning.runs.opening import RUN_DIR
from sft_lightning.runs.rank_failures import LAUNCH, broken
from sft_lightning.runs.record import command_line
from sft_lightning.runs.session import RunSession


class SFTCLI(LightningCLI):
    """A thin LightningCLI: the parser of `config/parser.py`, and hooks that open the run's session and work in it."""

    def __init__(self, arguments: list[str], session: RunSession) -> None:
        self.arguments, self.session = arguments, session
        super().__init__(
            SFTModule,
            SFTDataModule,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"exit_on_error": False},
            args=arguments,
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser, self._subcommand_method_arguments[subcommand] = command_parser(subcommand)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        written = list(given.from_arguments(self.arguments))
        given.refuse_linked(written, given.links_of(self._parser(self.arguments[0])))
        try:
            with secrets_not_printed([parser, *self._subcommand_parsers.values()]):
                self.config = parser.parse_args(args)
        except ArgumentError as error:
            raise explain(error, keys_of(*self._subcommand_parsers.values())) from None
        except yaml.YAMLError as error:  # in a file that an option names, or in an option's value
            why = getattr(error, "problem", None) or getattr(error, "reason", None) or error
            raise UserError(option_behind(self.arguments), f"not valid YAML: {why}", "quote it") from None
        except ValueError as error:  # a date that is none, for instance
            raise UserError("--config", f"a value, or an option's value, cannot be read: {error}") from None
        except RecursionError:
            raise UserError("--config", "values are nested too deeply, or within themselves") from None
        old = self.session.resume is not None or self.session.of_run is not None
        check(self.settings, old)
        if self.session.of_run is None:
            mode_is_written = not old and given.names(written, "trainer.callbacks", "mode")
            say_modes(self.settings.trainer.get("callbacks"), mode_is_written, silent=self.session.rank != 0)
        if self.session.rank == 0:
            given.say_overridden(written, self.settings)

    def _parse_ckpt_path(self) -> None:
        """A checkpoint never changes the configuration: the module compares the two when it is loaded."""

    @property
    def settings(self) -> Namespace:
        """The sub-command's configuration."""
        settings: Namespace = self.config[self.config.subcommand]
        return settings

    def before_instantiate_classes(self) -> None:
        """Opens the run: its directory exists from here on."""
        settings, session, stage = self.settings, self.session, str(self.config.subcommand)
        if settings.experiment is None:
            settings.experiment = session.of_run.experiment if session.of_run else experiment_name(self.arguments)
        start = session.settle_start(stage, options_of(settings), settings.get("ckpt_path"), settings.weights_only)
        settings.ckpt_path, task = start
        if task:
            settings.model.init_args.task = task
        session.open(
            as_plain(self._parser(stage), settings),
            variant=settings.model.class_path.rpartition(".")[2],
            network=settings.network.class_path.rpartition(".")[2],
            seed=settings.seed_everything,
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        monitor = RetentionMonitor(SourceData.of(self._get(self.config_init, "retention")), self.settings.drift_rows)
        arguments = self.session.trainer_arguments(self._get(self.config_init, "trainer"), monitor)
        trainer = super().instantiate_trainer(**arguments)
        keep_signals(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        self.session.work(self.trainer, self.model, self.datamodule, self._prepare_subcommand_kwargs(subcommand))


@contextmanager
def secrets_not_printed(parsers: list[LightningArgumentParser]) -> Iterator[None]:
    """While parsers parse, and may come upon `--print_config`: what they dump is without secrets."""
    for parser in parsers:

        def dump(*args: Any, dump: Any = parser.dump, **kwargs: Any) -> str:
            text: str = dump(*args, **kwargs)
            content = yaml.safe_load(text)
            shown = redaction.without(content)
            return text if shown == content else yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)

        parser.dump = dump
    try:
        yield
    finally:
        for parser in parsers:
            del parser.dump


def option_behind(arguments: list[str]) -> str:
    """The option whose value is no YAML, as far as that can be told."""
    name = ""
    for argument in arguments:
        name, value = argument.partition("=")[::2] if argument.startswith("--") else (name, argument)
        try:
            yaml.safe_load(value)
        except yaml.YAMLError:
            return name or "the command line"
        except (ValueError, RecursionError):
            continue
    return "a value in --config, or a file that an option names,"


def pop_option(arguments: list[str], name: str) -> str | None:
    """Takes `--name value` or `--name=value` out of `arguments`."""
    for i, argument in enumerate(arguments):
        if argument == f"--{name}":
            if i + 1 >= len(arguments):
                raise UserError(f"--{name}", "needs a value")
            value = arguments[i + 1]
            del arguments[i : i + 2]
            return value
        if argument.startswith(f"--{name}="):
            del arguments[i]
            return argument.partition("=")[2]
    return None


def existing_run(path: str, what: str) -> RunDirectory:
    """A run directory that is there."""
    run = RunDirectory(Path(path).expanduser())
    for needed in (run.config, *([] if what == "resume" else [run.record, run.last])):
        if not needed.is_file():
            raise UserError(f"--{what}", f"{path} is no run that can be used: it has no {needed.relative_to(run.path)}")
    for file in (run.record, run.metrics, run.last, run.best):
        if file.is_dir() or (file.is_symlink() and not file.exists()):
            raise UserError(f"--{what}", f"{file} is no file", "remove it")
    return run


def run(arguments: list[str]) -> int:
    """Parses, trains or evaluates, records; raises UserError for what the user can mend."""
    quieten()
    allow_on_as_key()
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a user's own module beside the config, also for the console script
    typed, arguments = arguments, [underscored(a) for a in arguments]
    while (module := pop_option(arguments, "import")) is not None:
        if not all(part.isidentifier() for part in module.split(".")):
            raise UserError("--import", f"'{module}' is no module's name, such as my_package.my_module")
        try:
            import_module(module)
        except ImportError as error:
            raise UserError("--import", f"{module} cannot be imported: {error}") from None
    command, rest = arguments[0], ["--help" if a == "--help-all" else a for a in arguments[1:]]
    resume = of_run = None
    if (path := pop_option(rest, "resume")) is not None:
        if command != "fit":
            raise UserError("--resume", "is for fit", f"use {command} --run {path}")
        resume = existing_run(path, "resume")
        rest = ["--config", str(resume.config), *rest]
        if resume.last.is_file():
            rest += ["--ckpt_path", str(resume.last)]
    elif (path := pop_option(rest, "run")) is not None:
        if command == "fit":
            raise UserError("--run", "is for validate, test and predict", f"to continue a run use fit --resume {path}")
        of_run = existing_run(path, "run")
        checkpoint = of_run.best if of_run.best.is_file() else of_run.last
        rest = ["--config", str(of_run.config), *rest]
        if not any(a.partition("=")[0] == "--ckpt_path" for a in rest):
            rest += ["--ckpt_path", str(checkpoint)]
    for i, argument in enumerate(rest):
        if argument in ("--config", "-c") and i + 1 < len(rest):
            check_yaml(Path(rest[i + 1]))
        elif argument.startswith("--config="):
            check_yaml(Path(argument.partition("=")[2]))
    check_values(rest)
    session, processes = RunSession(command_line(typed), resume, of_run), active_children()
    try:
        SFTCLI([command, *rest], session)
    except Interrupted as stop:
        session.stopped(stop)
        return stop.exit_code
    except BaseException as error:
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            session.fail(error.__context__)  # Lightning makes 1 of a Ctrl-C
            return 130
        of_others = session.ranks is not None and broken(error)
        wrong = None if of_others else user_error(error, session.directory if command == "fit" else None)
        wrong = wrong and session.say_where(wrong)
        code = session.settle(wrong or error, 2 if wrong is not None else 1)
        if code is not None:  # another rank's failure, said there
            return code
        if wrong is not None:
            raise wrong from None
        raise
    finally:
        end_processes(but=processes)
        session.close()
        if session.rank == 0:
            os.environ.pop(RUN_DIR, None)
            os.environ.pop(LAUNCH, None)
    return 0


def user_error(error: BaseException, run: RunDirectory | None = None) -> UserError | None:
    """The user's mistake behind an exception, if it is one, or what the machine lacks; `run` is the one being fitted."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, ArgumentError):
        return explain(error)
    if isinstance(error, MisconfigurationException):
        if "No supported gpu backend" in str(error):
            return UserError("trainer.accelerator", "a GPU was asked for and none was found", "use cpu or auto")
        return UserError("trainer", error)
    if isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error):
        return UserError(
            "data.batch_size",
            "BatchNorm cannot train on a micro-batch of one sample, which the last one of the epoch has, or one "
            "with unreadable samples",
            "choose another batch_size, or set model.init_args.freeze_batchnorm_stats true",
        )
    if "Error(s) in loading state_dict" in str(error):
        found = re.search(r"size mismatch for [^:]+: .*|(Missing|Unexpected) key\(s\) in state_dict: [^,]+", str(error))
        return UserError("ckpt_path", f"the checkpoint is of another network: {found[0] if found else error}")
    behind = error.__cause__ or error.__context__
    while behind is not None and type(error) is ValueError:  # jsonargparse wraps what a constructor raises
        if isinstance(behind, UserError):
            return behind
        behind = behind.__cause__ or behind.__context__
    if (fault := machine_fault(error)) is not None:
        kept = run is not None and run.last.is_file()
        return (
            fault.with_fix(f"to resume from last.ckpt: fit --resume {run.path}") if run is not None and kept else fault
        )
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UserError(error.filename, "no path can be so long", "look for the key that names a file or folder so")
    if isinstance(error, pickle.UnpicklingError):
        return UserError(
            "pickle", f"a file holds pickled code or objects besides tensors, and this is never run: {error}"
        )
    if run is not None and (fault := unwritable(error, run.path, run.last)) is not None:
        return fault
    return refused(error)
