"""Turns errors that libraries raise about the user's settings into UserErrors, judged by where they were raised."""

import re
import sysconfig
from pathlib import Path
from traceback import walk_tb
from typing import Any

from packaging.version import InvalidVersion

from sft_lightning.callbacks.of_lightning import ARGUMENTS
from sft_lightning.config.parser_errors import explain
from sft_lightning.core.errors import UserError, plainly

OURS = Path(__file__).parents[1]
LIBRARIES = ("site-packages", "dist-packages")
RESTORES = ("restore", "_restore", "resume")
CALLED_BACK = ("closure", "training_step", "backward", "on_before_optimizer_step")
NETWORKS = ("/transformers/", "/timm/", "/torchvision/")
REFUSALS = (
    TypeError,
    ValueError,
    RuntimeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
)
"""Errors that libraries raise on settings they cannot use; NotImplementedError and RecursionError are RuntimeErrors."""


def refused(error: BaseException) -> UserError | None:
    """Returns the UserError for an error that a library raises because of the settings; None for any other error.

    An error in our own code or in the user's is a bug: its traceback is needed.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    if type(error).__module__.startswith("wandb"):
        return UserError("wandb", said(error))
    if restoring := next(
        (f for f in reversed(frames) if f.f_code.co_name.startswith(RESTORES) and "/lightning/" in file_of(f)), None
    ):
        return unfit(error, restoring, frames[-1])
    if not isinstance(error, REFUSALS) or not frames or not of_library(frames[-1]):
        return None
    if not all(of_library(f) or Path(f.f_code.co_filename).is_relative_to(OURS) for f in frames):
        return None  # code of the user was involved
    raised = file_of(frames[-1])
    names = [frame.f_code.co_name for frame in frames]
    built = next((frame for frame in frames if frame.f_code.co_name == "build_network"), None)
    if built is not None:
        cls = getattr(built.f_locals.get("cls"), "__name__", "the class")
        return UserError("network", f"{cls} cannot be built with these arguments: {said(error)}")
    if (asked := asks_network(frames)) is not None:
        return UserError("network", f"{asked} cannot take this batch: {said(error)}")
    if "optimizer_step" in names and of_optimizer(frames):
        kind = next((type(f.f_locals["self"]).__name__ for f in reversed(frames) if is_optimizer(f)), "the optimizer")
        return UserError("model.optimizer", f"{kind} cannot take a step: {said(error)}")
    of_lightning = [p for p in map(file_of, frames) if "/lightning/" in p]
    if of_lightning and (callback := re.search(r"/callbacks/(\w+)\.py", of_lightning[-1])) is not None:
        return UserError("trainer.callbacks", f"{callback[1]}: {said(error)}")
    if "instantiate_trainer" in names:
        return of_trainer(error)
    if "instantiate_classes" in names:
        return not_made(error, frames)
    if "/lightning/" in raised or "/lightning_utilities/" in raised:
        return of_trainer(error)
    return None


def of_trainer(error: BaseException) -> UserError:
    """Returns the UserError for an error of Trainer, at the first of its arguments that the message names.

    An argument such as `devices`, which may be a plain word, must be written as code.
    """
    text = said(error)
    named = re.finditer(r"\b([a-z]+(?:_[a-z]+)+)\b|`([a-z]+)`|\b([a-z]+)=", text)
    names = [next(filter(None, match.groups())) for match in named]
    name = "max_time" if "Timer(duration=" in text else next((n for n in names if n in ARGUMENTS), None)
    return UserError(f"trainer.{name}" if name else "trainer", text)


def of_optimizer(frames: list[Any]) -> bool:
    """Tells whether the optimizer itself raised an error, and not the forward or backward pass that it calls."""
    last = max((i for i, f in enumerate(frames) if is_optimizer(f) and "/torch/optim/" in file_of(f)), default=None)
    return last is not None and not any(f.f_code.co_name in CALLED_BACK for f in frames[last:])


def asks_network(frames: list[Any]) -> str | None:
    """Returns the network's class if a library of networks raised the error on its input; None for any other error."""
    asked = next((f for f in frames if f.f_code.co_name in ("encode", "forward") and is_network(f)), None)
    if asked is None or not any(library in file_of(frames[-1]) for library in NETWORKS):
        return None
    return type(asked.f_locals["self"]).__name__


def is_network(frame: Any) -> bool:
    """Tells whether a frame belongs to a method of a network."""
    from sft_lightning.networks.base import Network

    return isinstance(frame.f_locals.get("self"), Network)


def unfit(error: BaseException, restoring: Any, last: Any) -> UserError | None:
    """Returns the UserError for a checkpoint whose content does not fit; None for errors of other kinds."""
    if not isinstance(error, (*REFUSALS, InvalidVersion)):
        return None
    path = getattr(restoring.f_locals.get("self"), "_ckpt_path", None) or "the checkpoint"
    what = f"{type(error).__name__} {error}".partition("\n")[0]
    return UserError(
        "ckpt_path", f"{path} is damaged or of another version: {last.f_code.co_name} raised {plainly(what)}"
    )


def not_made(error: BaseException, frames: list[Any]) -> UserError | None:
    """Returns the UserError for a class that cannot be built from the arguments in the configuration."""
    behind: BaseException | None = error
    while behind is not None:
        last = [frame for frame, _ in walk_tb(behind.__traceback__)][-1:]
        if last and not of_library(last[0]):
            return None  # raised by a constructor of ours, or of the user's own
        behind = behind.__cause__ or behind.__context__
    where = block_made(frames) or "model, network or data"
    if "Does not validate against any of the" in str(error):
        return explain(f'Parser key "{where}":\n{error}')
    return UserError(where, said(error))


def block_made(frames: list[Any]) -> str | None:
    """Returns the block of the configuration (`data`, `retention`) whose class jsonargparse was building; None outside."""
    component = next((f.f_locals["component"] for f in reversed(frames) if "component" in f.f_locals), None)
    return getattr(component, "dest", None)


def file_of(frame: Any) -> str:
    """Returns the file of a frame."""
    return Path(frame.f_code.co_filename).as_posix()


def of_library(frame: Any) -> bool:
    """Tells whether a frame belongs to the standard library or to an installed package other than this one."""
    path = Path(frame.f_code.co_filename)
    if path.is_relative_to(OURS):
        return False
    standard = path.is_relative_to(sysconfig.get_paths()["stdlib"]) or not path.is_absolute()  # <frozen …>, <string>
    return standard or any(part in LIBRARIES for part in path.parts)


def is_optimizer(frame: Any) -> bool:
    """Tells whether a frame belongs to a method of an optimizer."""
    from torch.optim import Optimizer

    return isinstance(frame.f_locals.get("self"), Optimizer)


def said(error: BaseException) -> str:
    """Returns an error's message without C++'s own traceback."""
    text = str(error).partition("Exception raised from")[0].strip() or type(error).__name__
    return plainly(" ".join(text.split())[:400])
