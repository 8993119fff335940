"""Calls a function right before, and another right after, each optimizer step that changes weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

StepHook = Callable[[Optimizer], None]


def around_steps(optimizer: Optimizer, before: StepHook, after: StepHook) -> None:
    """Has `before(optimizer)` and `after(optimizer)` called once a step, without gradient, from now on.

    Lightning hands the optimizer a closure that computes gradients; `before` is called when it has run, so gradients are
    complete and clipped. A gradient scaler runs the closure itself, and calls the optimizer only where gradients are finite:
    a step that it skips calls neither.
    """

    def pre(
        _: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # the first is the optimizer
        if closure is None:
            with torch.no_grad():
                before(optimizer)
            return None
        waits = True

        def then() -> Any:
            nonlocal waits
            loss = closure()
            if waits:  # some optimizers compute gradients several times a step
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
    """Whether a gradient scaler leaves unscaling, and skipping, to the optimizer's own step, as for fused ones."""
    return getattr(precision, "scaler", None) is not None and getattr(optimizer, "_step_supports_amp_scaling", False)
