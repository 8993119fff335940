"""SFTCLI: LightningCLI with data × network × variant, our run directory, and errors in one line."""

import errno
import logging
import os
import pickle
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib import import_module
from multiprocessing import active_children
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

import sft_lightning.data
import sft_lightning.networks  # noqa: F401
from sft_lightning.callbacks.monitored import say_modes
from sft_lightning.config import given
from sft_lightning.config.files import allow_on_as_key, check_values, check_yaml
from sft_lightning.config.library_errors import refused
from sft_lightning.config.parser_errors import explain
from sft_lightning.config.validation import check_settings
from sft_lightning.core import redaction
from sft_lightning.core.environment_errors import end_processes, machine_fault, unwritable
from sft_lightning.core.errors import UserError
from sft_lightning.core.signals import Interrupted
from sft_lightning.data.base import SFTDataModule
from sft_lightning.evaluation.source_data import SourceData
from sft_lightning.modules import SFTModule
from sft_lightning.networks.base import Network
from sft_lightning.runs import RunDirectory
from sft_lightning.runs.rank_failures import LAUNCH, broken
from sft_lightning.runs.session import RUN_DIR, RunSession

OPTIONS: list[tuple[str, Any, Any, str]] = [
    ("experiment", str | None, None, "Name of the experiment; default the folder and file name of --config."),
    ("runs_dir", str | None, None, "Root of run directories; default SFT_RUNS_DIR, else runs."),
    ("run_id", str | None, None, "Name of this run, which is its W&B id too; default a fresh one."),
    (
        "drift_rows",
        int,
        1024,
        "Samples of a split, drawn evenly, on which the network is compared with the pretrained one; all if no more.",
    ),
    (
        "select_by",
        str | None,
        None,
        "Metric that chooses best.ckpt; default val/ and the task's first metric. A tie goes to the lower val/loss.",
    ),
    ("test_after_fit", bool, False, "After fit, measure best.ckpt once on the test split."),
    ("wandb", Literal["online", "offline", "disabled"], "offline", "Where W&B records go; offline needs no account."),
    (
        "wandb_fallback",
        Literal["offline"] | None,
        None,
        "What --wandb online does where no server answers: go on offline; null for an error before training.",
    ),
    ("wandb_project", str, "sft_lightning", "W&B project."),
    ("wandb_group", str | None, None, "W&B group; default the experiment."),
    ("wandb_job_type", str | None, None, "W&B job type; default the variant."),
    ("wandb_tags", list[str] | None, None, "W&B tags."),
    ("save_every_n_steps", int | None, None, "Save last.ckpt every so many optimizer steps, besides at validations."),
    ("save_every_minutes", float | None, 10.0, "Save last.ckpt every so many minutes, besides at validations."),
    ("quiet", bool, False, "Print nothing but the run's path."),
]
NOT_SAVED = ("config", "run_id", "ckpt_path")  # what would keep `fit --config config.yaml` from repeating the run


class SFTCLI(LightningCLI):
    """A thin LightningCLI: three choices, run options, and hooks that open and close the run's session."""

    def __init__(self, arguments: list[str], session: RunSession) -> None:
        self.arguments, self.session = arguments, session
        kwargs: dict[str, Any] = {"exit_on_error": False}
        super().__init__(
            SFTModule,
            SFTDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            trainer_defaults={"num_sanity_val_steps": 0, "log_every_n_steps": 10, "enable_model_summary": False},
            parser_kwargs={**kwargs, **{name: dict(kwargs) for name in self.subcommands()}},
            args=arguments,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_subclass_arguments(
            Network, "network", skip={"task"}, instantiate=False, required=True, help="The network that is tuned."
        )
        parser.add_subclass_arguments(
            SFTDataModule, "retention", required=False, help="The source task's data, to measure what is kept."
        )
        parser.link_arguments("network", "model.init_args.network", compute_fn=plain)
        for name, kind, default, text in OPTIONS:
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        written = list(given.from_arguments(self.arguments))
        given.refuse_linked(written, given.links_of(self._parser(self.arguments[0])))
        try:
            with secrets_not_printed([parser, *self._subcommand_parsers.values()]):
                self.config = parser.parse_args(args)
        except ArgumentError as error:
            keys = {getattr(action, "dest", "") for sub in self._subcommand_parsers.values() for action in sub._actions}
            raise UserError(explain(error, keys)) from None
        except yaml.YAMLError as error:  # in a file that an option names, or in an option's value
            why = getattr(error, "problem", None) or getattr(error, "reason", None) or error
            raise UserError(f"{option_behind(self.arguments)}: not valid YAML: {why}: quote it") from None
        except ValueError as error:  # a date that is none, for instance
            raise UserError(f"--config, or an option's value, cannot be read: {error}") from None
        except RecursionError:
            raise UserError("--config: values are nested too deeply, or within themselves") from None
        redaction.learn(self.settings)
        redaction.refuse_left_out(self.settings)
        old = self.session.resume is not None or self.session.of_run is not None
        check_settings(self.settings, {name: kind for name, kind, *_ in OPTIONS}, old)
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

    def saved_config(self) -> dict[str, Any]:
        """Everything resolved, as it goes into config.yaml."""
        settings = spelled(self.settings.clone())
        for name in NOT_SAVED:
            settings.pop(name, None)
        parser = self._parser(self.config.subcommand)
        text = parser.dump(settings, skip_none=False, skip_validation=True)
        return dict(yaml.safe_load(text))

    def before_instantiate_classes(self) -> None:
        """Opens the run: its directory exists from here on."""
        self.session.open(self)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        arguments = self.session.trainer_arguments(self._get(self.config_init, "trainer"))
        trainer = super().instantiate_trainer(**arguments)
        # Our handlers stand, and Lightning's would undo them.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        return trainer

    def source(self) -> SourceData | None:
        """The source data that `retention:` names."""
        return SourceData.of(self._get(self.config_init, "retention"))

    def _run_subcommand(self, subcommand: str) -> None:
        self.session.run(self, subcommand, self._prepare_subcommand_kwargs(subcommand))


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


def spelled(value: Any) -> Any:
    """Settings with choices of an Enum, which YAML does not know, as they are written."""
    if isinstance(value, Namespace):
        for name, held in vars(value).items():
            setattr(value, name, spelled(held))
        return value
    if isinstance(value, list):
        return [spelled(held) for held in value]
    return value if not isinstance(value, Enum) else str(value.value) if isinstance(value, str) else value.name


def plain(network: Any) -> Any:
    """The network's specification as plain values, for the module."""
    return network.as_dict() if isinstance(network, Namespace) else network


def underscored(argument: str) -> str:
    """`--run-id` is `--run_id`: other tools write options so."""
    name, is_given, value = argument.partition("=")
    known = {f"--{option}" for option, *_ in OPTIONS} | {"--ckpt_path", "--seed_everything"}
    wanted = "--" + name[2:].replace("-", "_")
    return wanted + is_given + value if name.startswith("--") and wanted in known else argument


def pop_option(arguments: list[str], name: str) -> str | None:
    """Takes `--name value` or `--name=value` out of `arguments`."""
    for i, argument in enumerate(arguments):
        if argument == f"--{name}":
            if i + 1 >= len(arguments):
                raise UserError(f"--{name} needs a value")
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
            raise UserError(f"--{what}: {path} is no run that can be used: it has no {needed.relative_to(run.path)}")
    for file in (run.record, run.metrics, run.last, run.best):
        if file.is_dir() or (file.is_symlink() and not file.exists()):
            raise UserError(f"--{what}: {file} is no file: remove it")
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
            raise UserError(f"--import: '{module}' is no module's name, such as my_package.my_module")
        try:
            import_module(module)
        except ImportError as error:
            raise UserError(f"--import: {module} cannot be imported: {error}") from None
    command, rest = arguments[0], ["--help" if a == "--help-all" else a for a in arguments[1:]]
    resume = of_run = None
    if (path := pop_option(rest, "resume")) is not None:
        if command != "fit":
            raise UserError(f"--resume is for fit; use {command} --run {path}")
        resume = existing_run(path, "resume")
        rest = ["--config", str(resume.config), *rest]
        if resume.last.is_file():
            rest += ["--ckpt_path", str(resume.last)]
    elif (path := pop_option(rest, "run")) is not None:
        if command == "fit":
            raise UserError(f"--run is for validate, test and predict; to continue a run use fit --resume {path}")
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
    session, processes = RunSession(typed, resume, of_run), active_children()
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
        return UserError(explain(error))
    if isinstance(error, MisconfigurationException):
        if "No supported gpu backend" in str(error):
            return UserError("trainer.accelerator: a GPU was asked for and none was found: use cpu or auto")
        return UserError(f"trainer: {error}")
    if isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error):
        return UserError(
            "data.batch_size: BatchNorm cannot train on a micro-batch of one sample, which the last one of the epoch has, or "
            "one with unreadable samples; "
            "choose another batch_size, or set model.init_args.freeze_batchnorm_stats true"
        )
    if "Error(s) in loading state_dict" in str(error):
        found = re.search(r"size mismatch for [^:]+: .*|(Missing|Unexpected) key\(s\) in state_dict: [^,]+", str(error))
        return UserError(f"ckpt_path: the checkpoint is of another network: {found[0] if found else error}")
    behind = error.__cause__ or error.__context__
    while behind is not None and type(error) is ValueError:  # jsonargparse wraps what a constructor raises
        if isinstance(behind, UserError):
            return behind
        behind = behind.__cause__ or behind.__context__
    if (fault := machine_fault(error)) is not None:
        kept = f"; to go on from last.ckpt: fit --resume {run.path}" if run is not None and run.last.is_file() else ""
        return UserError(fault + kept)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UserError(f"no path can be so long: {error.filename}: look for the key that names a file or folder so")
    if isinstance(error, pickle.UnpicklingError):
        return UserError(f"a file holds pickled code or objects besides tensors, which is never run: {error}")
    if run is not None and (fault := unwritable(error, run.path, run.last)) is not None:
        return UserError(fault)
    return refused(error)


def asked_for(record: logging.LogRecord) -> bool:
    """Of Lightning's notices those that `verbose` of ModelCheckpoint and Timer asks for."""
    return record.levelno > logging.INFO or bool(
        re.match(r"Epoch \d+, global step|Time limit reached", record.getMessage())
    )


def quieten() -> None:
    """Lightning's hints and notices are not the user's concern; its warnings are."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.callbacks").setLevel(logging.INFO)  # what a callback is asked to say
    notices = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    notices.setLevel(logging.INFO)
    notices.addFilter(asked_for)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for text in (
        ".*does not have many workers.*",
        ".*in eval mode at the start of training.*",
        ".*treespec.*",
        ".*set_vital.*",
        ".*The number of training batches.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*is smaller than the logging interval.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*You have overridden.*transfer_batch_to_device.*",
        ".*Trying to infer the `batch_size`.*",
        ".*You are using a custom batch sampler.*",
        ".*sync_dist=True.*",  # what we log is reduced over ranks already
        ".*srun. command is available on your system but is not used.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
    ):
        warnings.filterwarnings("ignore", message=text)
