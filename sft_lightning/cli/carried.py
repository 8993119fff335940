"""Carries a command's work in a run to its end: settles errors, and says those that the user or the machine caused."""

import errno
import os
import pickle
import re
from collections.abc import Callable
from multiprocessing import active_children
from traceback import walk_tb

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from sft_lightning.config import given
from sft_lightning.config.library_errors import block_made, of_trainer, refused
from sft_lightning.config.parser_errors import explain
from sft_lightning.core.environment_errors import end_processes, machine_fault, unwritable
from sft_lightning.core.errors import UserError
from sft_lightning.core.signals import Interrupted
from sft_lightning.runs import RunDirectory
from sft_lightning.runs.opening import RUN_DIR
from sft_lightning.runs.rank_failures import LAUNCH, broken
from sft_lightning.runs.session import RunSession


def carried(session: RunSession, command: str, rest: list[str], work: Callable[[], object]) -> int:
    """Does the session's work and closes it however it ends. Returns the exit code, or raises UserError.

    Args:
        session: The session.
        command: Command whose parser reads `rest`.
        rest: The command's options.
        work: Builds trainer, module and data, and works with them.
    """
    processes = active_children()
    try:
        work()
    except Interrupted as stop:
        session.stopped(stop)
        return stop.exit_code
    except BaseException as error:
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            session.fail(error.__context__)  # Lightning turns Ctrl-C into exit code 1
            return 130
        of_others = session.ranks is not None and broken(error)
        wrong = None if of_others else user_error(error, session.directory if command == "fit" else None)
        if wrong is not None:
            wrong = given.in_users_words(wrong, list(given.from_arguments(rest)), session.config)
            wrong = session.say_where(wrong)
        code = session.settle(wrong or error, 2 if wrong is not None else 1)
        if code is not None:  # another rank failed and prints the error
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
    """Returns the UserError for an exception that the user or the machine caused; None for a bug. `run` is being fitted."""
    of_retention = block_made([frame for frame, _ in walk_tb(error.__traceback__)]) == "retention"
    if isinstance(error, UserError):
        return error.moved("data", "retention") if of_retention else error
    if isinstance(error, ArgumentError):
        return explain(error)
    if isinstance(error, MisconfigurationException):
        if "No supported gpu backend" in str(error):
            return UserError("trainer.accelerator", "no GPU was found", "set it to cpu or auto")
        return of_trainer(error)
    if isinstance(error, ValueError) and "Expected more than 1 value per channel" in str(error):
        return UserError(
            "data.batch_size",
            "BatchNorm cannot train on a micro-batch of one sample: the last one of the epoch, or one with unreadable "
            "samples",
            "choose another batch_size, or set model.init_args.freeze_batchnorm_stats true",
        )
    if "Error(s) in loading state_dict" in str(error):
        found = re.search(r"size mismatch for [^:]+: .*|(Missing|Unexpected) key\(s\) in state_dict: [^,]+", str(error))
        return UserError("ckpt_path", f"the checkpoint holds another network: {found[0] if found else error}")
    behind = error.__cause__ or error.__context__
    while behind is not None and type(error) is ValueError:  # jsonargparse wraps errors of constructors
        if isinstance(behind, UserError):
            return behind.moved("data", "retention") if of_retention else behind
        behind = behind.__cause__ or behind.__context__
    if (fault := machine_fault(error)) is not None:
        kept = run is not None and run.last.is_file()
        return (
            fault.with_fix(f"then resume from last.ckpt by fit --resume {run.path}")
            if run is not None and kept
            else fault
        )
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UserError(error.filename, "this path is too long for the file system", "shorten the key that names it")
    if isinstance(error, pickle.UnpicklingError):
        return UserError(
            "pickle", f"a file holds pickled code or objects other than tensors, which are never loaded: {error}"
        )
    if run is not None and (fault := unwritable(error, run.path, run.last)) is not None:
        return fault
    return refused(error)
