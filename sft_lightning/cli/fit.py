"""fit, validate, test and predict: LightningCLI with our parser, run directories, and user errors in one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.callbacks.monitored import say_modes
from sft_lightning.cli.carried import carried
from sft_lightning.cli.quiet import quieten
from sft_lightning.config import given
from sft_lightning.config.files import allow_on_as_key, check_values, check_yaml
from sft_lightning.config.options import monitored, options_of, underscored
from sft_lightning.config.parser import command_parser
from sft_lightning.config.parser_errors import explain
from sft_lightning.config.read_once import ReadOnce
from sft_lightning.config.resolve import as_plain, check, keys_of
from sft_lightning.core import plain_yaml, redaction
from sft_lightning.core.errors import UserError
from sft_lightning.data.base import SFTDataModule
from sft_lightning.evaluation.source_data import SourceData
from sft_lightning.modules import SFTModule
from sft_lightning.runs import RunDirectory
from sft_lightning.runs.directory import experiment_name
from sft_lightning.runs.equipment import keep_signals
from sft_lightning.runs.record import command_line
from sft_lightning.runs.session import RunSession


class SFTCLI(LightningCLI):
    """A LightningCLI with the parser of `config/parser.py` and hooks that open the run's session and work in it."""

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
                self.read = ReadOnce(self.arguments)
                self.config = self.read.parsed(lambda: parser.parse_args(args))
        except ArgumentError as error:
            raise explain(error, keys_of(*self._subcommand_parsers.values()), self.arguments) from None
        except yaml.YAMLError as error:  # in a file that an option names, or in the value of an option
            why = getattr(error, "problem", None) or getattr(error, "reason", None) or error
            raise invalid_yaml(self.arguments, why) from None
        except ValueError as error:  # an impossible date, for instance
            raise UserError("--config", f"a value in the file or of an option cannot be read: {error}") from None
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
        """Does nothing: a checkpoint never changes the configuration. The module compares the two when it is loaded."""

    @property
    def settings(self) -> Namespace:
        """The sub-command's configuration."""
        settings: Namespace = self.config[self.config.subcommand]
        return settings

    def before_instantiate_classes(self) -> None:
        """Opens the run, which makes its directory."""
        settings, session, stage = self.settings, self.session, str(self.config.subcommand)
        if settings.experiment is None:
            settings.experiment = session.of_run.experiment if session.of_run else experiment_name(self.arguments)
        start = session.settle_start(stage, options_of(settings), settings.get("ckpt_path"), settings.weights_only)
        settings.ckpt_path, task = start
        if task:
            settings.model.init_args.task = task

        def plain() -> dict[str, Any]:
            return as_plain(self._parser(stage), settings)

        session.open(
            plain() if task else self.read.plain(plain),
            variant=settings.model.class_path.rpartition(".")[2],
            network=settings.network.class_path.rpartition(".")[2],
            seed=settings.seed_everything,
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        source = SourceData.of(self._get(self.config_init, "retention"))
        monitor = RetentionMonitor(source, **monitored(self.settings))
        arguments = self.session.trainer_arguments(self._get(self.config_init, "trainer"), monitor)
        trainer = super().instantiate_trainer(**arguments)
        keep_signals(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        self.session.work(self.trainer, self.model, self.datamodule, self._prepare_subcommand_kwargs(subcommand))


@contextmanager
def secrets_not_printed(parsers: list[LightningArgumentParser]) -> Iterator[None]:
    """Leaves secrets out of what parsers dump for `--print_config`."""
    for parser in parsers:

        def dump(*args: Any, dump: Any = parser.dump, **kwargs: Any) -> str:
            text: str = dump(*args, **kwargs)
            content = plain_yaml.load_written(text)
            shown = redaction.without(content)
            return text if shown == content else yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)

        parser.dump = dump
    try:
        yield
    finally:
        for parser in parsers:
            del parser.dump


def invalid_yaml(arguments: list[str], why: object) -> UserError:
    """Returns the error for a value that is not valid YAML, at its option if that can be found."""
    name = ""
    for argument in arguments:
        name, value = argument.partition("=")[::2] if argument.startswith("--") else (name, argument)
        try:
            yaml.safe_load(value)
        except yaml.YAMLError:
            return UserError(name or "command line", f"not valid YAML: {why}", "quote it")
        except (ValueError, RecursionError):
            continue
    return UserError("--config", f"a value, or a file that an option names, is not valid YAML: {why}", "quote it")


def pop_option(arguments: list[str], name: str) -> str | None:
    """Removes `--name value` or `--name=value` from `arguments` and returns the value, or None."""
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
    """Returns a run directory; raises UserError if it lacks files that are needed."""
    run = RunDirectory(Path(path).expanduser())
    measured = run.best if run.best.is_file() else run.last
    if what == "resume" and run.best.is_file() and not run.last.exists() and not run.last.is_symlink():
        why = "runs clean removed it, or path wrote the run"
        raise UserError("--resume", f"{path} has no last.ckpt: {why}", "begin another run from its model/")
    for needed in (run.config, *([] if what == "resume" else [run.record, measured])):
        if not needed.is_file():
            raise UserError(
                f"--{what}", f"{path} is not a usable run, because it has no {needed.relative_to(run.path)}"
            )
    for file in (run.record, run.metrics, run.last, run.best):
        if file.is_dir() or (file.is_symlink() and not file.exists()):
            raise UserError(f"--{what}", f"{file} is a folder or a broken link, not a file", "remove it")
    return run


def run(arguments: list[str]) -> int:
    """Runs fit, validate, test or predict. Returns the exit code; raises UserError for mistakes that the user can fix."""
    quieten()
    allow_on_as_key()
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # for the user's own modules, which the console script would not find
    typed, arguments = arguments, [underscored(a) for a in arguments]
    while (module := pop_option(arguments, "import")) is not None:
        if not all(part.isidentifier() for part in module.split(".")):
            raise UserError("--import", f"'{module}' is not a module's name", "write it as in my_package.my_module")
        try:
            import_module(module)
        except ImportError as error:
            raise UserError("--import", f"{module} cannot be imported: {error}") from None
    command, rest = arguments[0], ["--help" if a == "--help-all" else a for a in arguments[1:]]
    resume = of_run = None
    if (path := pop_option(rest, "resume")) is not None:
        if command != "fit":
            raise UserError("--resume", "is an option of fit only", f"use {command} --run {path}")
        resume = existing_run(path, "resume")
        rest = ["--config", str(resume.config), *rest]
        if resume.last.is_file():
            rest += ["--ckpt_path", str(resume.last)]
    elif (path := pop_option(rest, "run")) is not None:
        if command == "fit":
            raise UserError(
                "--run", "is an option of validate, test and predict", f"use fit --resume {path} to resume a run"
            )
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
    session = RunSession(command_line(typed), resume, of_run)
    return carried(session, command, rest, lambda: SFTCLI([command, *rest], session))
