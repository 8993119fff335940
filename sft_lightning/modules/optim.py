"""Builds parameter groups, the optimizer by name, and learning-rate schedules per optimizer step."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.modules.trainable import Change
from sft_lightning.networks.base import Network


def parameter_groups(
    network: Network,
    lr: float,
    weight_decay: float,
    head_lr_factor: float,
    layer_decay: float,
    no_decay: set[str],
    trained: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Groups parameters by learning rate and weight decay; each group has `lr`, `weight_decay` and `names`.

    The groups hold the parameters in `trained`, even those frozen at first; without it, those that have gradients now.

    New layers (the head, and new layers inside a pretrained encoder) have the rate lr·head_lr_factor; the top pretrained
    layer (and a pretrained head) lr, each layer below `layer_decay` times that of the layer above. Biases, norms and
    `no_decay` get no weight decay.
    """
    added = network.added_parameters()
    kept = [[n for n in names if n not in added] for _, names in network.layers()]
    layers = [names for names in kept if names]
    depth = {n: len(layers) - 1 - i for i, names in enumerate(layers) for n in names}
    chosen = {n: p for n, p in network.named_parameters() if (p.requires_grad if trained is None else n in trained)}
    if head_lr_factor != 1.0 and not added.keys() & chosen:
        raise UserError(
            "model.head_lr_factor",
            f"{head_lr_factor:g} has no effect, because no new layer is trained (the network's head is pretrained or "
            "frozen)",
            "leave it out",
        )
    spared = network.no_decay_parameters() | no_decay
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in chosen.items():
        rate = lr * head_lr_factor if name in added else lr * layer_decay ** depth.get(name, 0)
        decay = 0.0 if name in spared else weight_decay
        group = groups.setdefault((rate, decay), {"params": [], "names": [], "lr": rate, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def optimizer_class(name: str) -> type[Optimizer]:
    """Finds an optimizer's class by its name in torch.optim (`AdamW`, `SGD`, …), or by a dotted path."""
    module, _, cls = name.rpartition(".")
    try:
        found = getattr(import_module(module) if module else torch.optim, cls)
    except (ImportError, AttributeError, TypeError, ValueError):
        known = [n for n in dir(torch.optim) if isinstance(getattr(torch.optim, n), type)]
        raise UserError(
            "model.optimizer", f"{'there is' if module else 'torch.optim has'} no '{name}'{nearest(name, known)}"
        ) from None
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise UserError("model.optimizer", f"'{name}' must be a torch.optim.Optimizer", "choose one, such as AdamW")
    return found


def trained_as_published(settings: Mapping[str, Any]) -> bool:
    """Whether a module's settings train as in the papers of L2-SP and LwF: SGD with momentum, on the whole network, with one
    learning rate for all pretrained layers, without an average of weights.
    """
    momentum = (settings["optimizer_args"] or {}).get("momentum")
    plainly = settings["freeze"] is None and settings["ema_decay"] is None and settings["layer_decay"] == 1.0
    return optimizer_class(settings["optimizer"]) is torch.optim.SGD and bool(momentum) and plainly


def is_number(value: Any) -> bool:
    """Whether it is a number, not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def make_optimizer(name: str, groups: list[dict[str, Any]], arguments: dict[str, Any] | None) -> Optimizer:
    """Builds the optimizer with exactly these arguments: lr and weight_decay from the groups, the rest from
    `arguments`, and nothing from another optimizer's defaults.
    """
    cls, arguments = optimizer_class(name), dict(arguments or {})
    parameters = signature(cls).parameters
    known = list(parameters)
    for reserved in ("lr", "weight_decay", "params"):
        if reserved in arguments:
            fix = "leave it out" if reserved == "params" else f"set model.init_args.{reserved}"
            raise UserError("model.optimizer_args", f"must not have '{reserved}'", fix)
    for argument, value in arguments.items():
        if argument not in known:
            raise UserError(
                "model.optimizer_args", f"{cls.__name__} has no argument '{argument}'{nearest(argument, known)}"
            )
        if is_number(parameters[argument].default) and not is_number(value) and not isinstance(value, Tensor):
            said = "null" if value is None else repr(value)
            raise UserError("model.optimizer_args", f"{cls.__name__}'s {argument} must be a number, got {said:.40}")
    if "weight_decay" not in known:
        if any(g["weight_decay"] for g in groups):
            raise UserError("model.weight_decay", f"{cls.__name__} has no weight decay", "set it to 0")
        groups = [{k: v for k, v in g.items() if k != "weight_decay"} for g in groups]
    names = [g["names"] for g in groups]
    try:
        optimizer = cls([{k: v for k, v in g.items() if k != "names"} for g in groups], **arguments)
    except (ValueError, TypeError, LookupError, RuntimeError, AttributeError) as error:
        raise UserError(
            "model.optimizer_args", f"{cls.__name__} refuses {arguments or 'missing arguments'}: {error}"
        ) from None
    for group, n in zip(optimizer.param_groups, names, strict=True):
        group["names"] = n
    return optimizer


def warmup_steps(warmup: float, total_steps: int) -> int:
    """`warmup` as a number of optimizer steps; below 1 it is a share of all steps."""
    if warmup < 0:
        raise UserError("model.warmup", f"must not be negative, got {warmup}")
    return round(warmup * total_steps) if warmup < 1 else int(warmup)


def schedule(kind: str, warmup: int, total: int) -> Callable[[int], float]:
    """Factor on the learning rate at optimizer step 0, 1, …: linear warm-up from 1/(warmup+1), then `kind` to 0 at
    `total`; 'constant' stays at 1.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if kind == "constant":
            return 1.0
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return 1.0 - done if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))

    return factor


def make_scheduler(
    optimizer: Optimizer, kind: str, warmup: float, total_steps: int, begun: Callable[[], int] = int
) -> LambdaLR:
    """The schedule as a torch scheduler, stepped once per optimizer step. It starts at step `begun()`."""

    def factor(step: int) -> float:
        start = begun()
        steps = total_steps - start
        return schedule(kind, warmup_steps(warmup, steps), steps)(max(0, step - start))

    return LambdaLR(optimizer, factor)


def follow(optimizer: Optimizer, schedulers: Sequence[LRScheduler], change: Change) -> None:
    """Adapts an optimizer and its schedulers to a change of the trainable set.

    A frozen parameter loses its gradient, so that the optimizer skips it, and its moments, so that it starts with fresh ones
    if it trains again. It stays in its group, with learning rate and weight decay.
    """
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if name in change.frozen:
                parameter.grad = None
                optimizer.state.pop(parameter, None)
    if change.lr_ratio == 1.0 and not change.restarts:
        return
    for group in optimizer.param_groups:
        for rate in ("lr", "initial_lr"):
            if rate in group:
                group[rate] *= change.lr_ratio
    for scheduler in schedulers:
        assert isinstance(scheduler, LambdaLR)
        scheduler.base_lrs = [rate * change.lr_ratio for rate in scheduler.base_lrs]
        parts = zip(optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, base, factor in parts:
            group["lr"] = base * factor(scheduler.last_epoch)
