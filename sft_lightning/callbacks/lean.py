"""Spares training steps what has no effect: empty hooks of callbacks, and the search for a GPU that is not there."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import PassThroughProfiler

from sft_lightning.callbacks.lean_calls import HOOKS, ask_once, begin, end
from sft_lightning.modules.tuned import TunedModule

ASK_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Lightning sets it, so that torch asks NVML, not CUDA, whether there is a GPU. An optimizer asks at each step."""
_NOTHING: AbstractContextManager[Any] = nullcontext()


class Lean(Callback):
    """Makes steps cheaper without changing what they compute. For small networks this is half of a step.

    Lightning enters a context of its profiler for each hook of each callback, also if the hook does nothing, and skips an
    attribute that cannot be called. So hooks that a callback's class inherits from Callback are set to None on the object;
    a class that defines a hook, and `super()`, are as before. Without a profiler, the context is one that does nothing, and
    hooks are called directly (see `lean_calls.py`).

    Where there is no GPU, torch's search for NVML fails again at each step. There, torch asks CUDA itself, which is fast and
    safe: processes that are forked later have no GPU to share.

    A variant without an anchor needs the teacher for measurements alone. Between them, a large one is left on disk.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        end(trainer)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            skip_empty_hooks(callback)
        profiler: Any = trainer.profiler  # type: ignore[attr-defined]
        if type(profiler) is PassThroughProfiler:
            profiler.profile = _profile_nothing  # type: ignore[method-assign, assignment]
            begin(trainer)
        ask_once(trainer)
        ask_cuda_without_gpu()
        rest_teacher(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        end(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        end(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            rest_teacher(trainer, pl_module)


def rest_teacher(trainer: Trainer, module: LightningModule) -> None:
    """Leaves the teacher's weights on disk if training steps do not need them; not with several ranks, which would write as
    many files, unless the anchor has a smaller reference.
    """
    if not isinstance(module, TunedModule) or module.teacher is None or module.changes_steps:
        return
    replaced = getattr(module, "reference", None) is not None
    if replaced or trainer.world_size == 1:
        module.teacher.rest(Path(trainer.default_root_dir), 0 if replaced else None)


def skip_empty_hooks(callback: Callback) -> None:
    """Sets hooks to None that the callback's class does not define."""
    for hook in HOOKS:
        if getattr(type(callback), hook) is getattr(Callback, hook) and hook not in vars(callback):
            setattr(callback, hook, None)


def ask_cuda_without_gpu() -> None:
    """Lets torch ask CUDA, not NVML, whether there is a GPU, if there is none."""
    if os.environ.get(ASK_NVML) == "1" and torch.cuda.device_count() == 0:
        del os.environ[ASK_NVML]


def _profile_nothing(action_name: str) -> AbstractContextManager[Any]:
    return _NOTHING
