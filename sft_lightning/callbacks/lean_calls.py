"""Calls the hooks of a training step directly: Lightning asks each callback for each hook, and enters contexts for empty ones.

Lightning's functions are called as before for all that is not known to be the same: other hooks, another profiler, callbacks
that were added since, and trainers that `begin` was not called for.
"""

import functools
import logging
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer import call

HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_validation_batch_start",
    "on_validation_batch_end",
)
"""Hooks that Lightning calls on each callback in each step"""
KEY = "_sft_lightning_calls"


@dataclass(frozen=True)
class Calls:
    """What a trainer's hooks do, as it was when training began."""

    module: LightningModule
    all: list[Callback]
    """All callbacks, the trainer's own list"""
    count: int
    """Number of callbacks"""
    callbacks: dict[str, list[Callback]]
    """The callbacks that have a hook, by hook"""
    of_module: frozenset[str]
    """Hooks for which the module does nothing"""
    of_strategy: frozenset[str]
    """Hooks for which the strategy does nothing"""


def begin(trainer: Trainer) -> None:
    """Notes what the trainer's hooks do. Its profiler must do nothing."""
    module, callbacks = trainer.lightning_module, trainer.callbacks  # type: ignore[attr-defined]
    trainer.__dict__.pop(KEY, None)
    if logging.getLogger(call.__name__).isEnabledFor(logging.DEBUG):  # its functions say there what they call
        return
    trainer.__dict__[KEY] = Calls(
        module,
        callbacks,
        len(callbacks),
        {hook: [c for c in callbacks if has(c, hook, Callback)] for hook in HOOKS},
        frozenset(hook for hook in HOOKS if not has(module, hook, LightningModule)),
        frozenset(hook for hook in HOOKS if hasattr(Strategy, hook) and not has(trainer.strategy, hook, Strategy)),
    )


def end(trainer: Trainer) -> None:
    """Leaves calls to Lightning again."""
    trainer.__dict__.pop(KEY, None)


def has(owner: object, hook: str, base: type) -> bool:
    """Whether an object has a hook of its own, from its class or set on it."""
    if hook in vars(owner):
        return callable(vars(owner)[hook])
    return getattr(type(owner), hook) is not getattr(base, hook)


_callback_hooks, _module_hook, _strategy_hook = (
    call._call_callback_hooks,
    call._call_lightning_module_hook,
    call._call_strategy_hook,
)


@functools.wraps(_callback_hooks)
def callback_hooks(trainer: Any, hook_name: str, *args: Any, monitoring_callbacks: Any = None, **kwargs: Any) -> None:
    """Calls a hook of all callbacks that have it."""
    calls: Calls | None = trainer.__dict__.get(KEY)
    if (
        calls is None
        or monitoring_callbacks is not None
        or trainer.callbacks is not calls.all
        or len(calls.all) != calls.count
    ):
        return _callback_hooks(trainer, hook_name, *args, monitoring_callbacks=monitoring_callbacks, **kwargs)
    callbacks = calls.callbacks.get(hook_name)
    if callbacks is None:
        return _callback_hooks(trainer, hook_name, *args, **kwargs)
    if not callbacks:
        return None
    module: Any = calls.module
    before, module._current_fx_name = module._current_fx_name, hook_name
    for callback in callbacks:
        if (hook := getattr(callback, hook_name)) is not None:  # a callback may end its hook in the course of training
            hook(trainer, module, *args, **kwargs)
    module._current_fx_name = before
    return None


@functools.wraps(_module_hook)
def module_hook(trainer: Any, hook_name: str, *args: Any, pl_module: Any = None, **kwargs: Any) -> Any:
    """Calls a hook of the module unless it does nothing."""
    calls: Calls | None = trainer.__dict__.get(KEY)
    if calls is not None and hook_name in calls.of_module and pl_module in (None, calls.module):
        return None
    return _module_hook(trainer, hook_name, *args, pl_module=pl_module, **kwargs)


@functools.wraps(_strategy_hook)
def strategy_hook(trainer: Any, hook_name: str, *args: Any, **kwargs: Any) -> Any:
    """Calls a hook of the strategy unless it does nothing."""
    calls: Calls | None = trainer.__dict__.get(KEY)
    if calls is not None and hook_name in calls.of_strategy:
        return None
    return _strategy_hook(trainer, hook_name, *args, **kwargs)


call._call_callback_hooks = callback_hooks
call._call_lightning_module_hook = module_hook
call._call_strategy_hook = strategy_hook


def ask_once(trainer: Trainer) -> None:
    """Lets the trainer find out once, not three times a batch, whether module or data moves batches."""
    selector: Any = trainer._data_connector._datahook_selector
    if selector is not None and "get_instance" not in vars(selector):
        selector.get_instance = functools.cache(selector.get_instance)
