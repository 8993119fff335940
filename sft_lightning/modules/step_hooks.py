"""Calls a function right before, and another right after, each optimizer step that changes weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

StepHook = Callable[[Optimizer], None]


def around_steps(optimizer: Optimizer, before: StepHook, after: StepHook) -> None:
    """Makes the optimizer call `before(optimizer)` and `after(optimizer)` once per step, under no_grad.

    Lightning gives the optimizer a closure that computes gradients; `before` is called after the closure, so gradients are
    complete and clipped. A gradient scaler runs the closure itself, and calls the optimizer only if gradients are finite, so
    a skipped step calls neither hook.
    """

    def pre(
        _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # args[0] is the optimizer
        if closure is None:
            with torch.no_grad():
                before(optimizer)
            return None
        waits = True

        def then() -> Any:
            nonlocal waits
            loss = closure()
            if waits:  # some optimizers call the closure several times per step
                waits = False
                with torch.no_grad():
                    before(optimizer)
            return loss

        return ((args[0], then), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": then})

    def post(*_: Any) -> None:
        with torch.no_grad():
            after(optimizer)

    optimizer.register_step_pre_hook(pre)
    optimizer.register_step_post_hook(post)


def unscales_itself(optimizer: Optimizer, precision: object) -> bool:
    """Whether a gradient scaler leaves unscaling and skipping to the optimizer's step, as for fused optimizers."""
    return getattr(precision, "scaler", None) is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
