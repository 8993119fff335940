"""Parameter groups, the optimizer by name, and learning-rate schedules per optimizer step."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

import torch
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
    """Parameters by (layer, decayed or not), each group with its `lr`, `weight_decay`, `names`.

    They are those named in `trained`, also where they stand still at first; without it, those that have gradients now.

    What is new, the head and new layers inside a pretrained encoder, learns at lr·head_lr_factor; the top pretrained layer
    (and a pretrained head) at lr, each layer below at `layer_decay` times the one above. Biases, norms and `no_decay` get no
    weight decay.
    """
    added = network.added_parameters()
    kept = [[n for n in names if n not in added] for _, names in network.layers()]
    layers = [names for names in kept if names]
    depth = {n: len(layers) - 1 - i for i, names in enumerate(layers) for n in names}
    chosen = {n: p for n, p in network.named_parameters() if (p.requires_grad if trained is None else n in trained)}
    if head_lr_factor != 1.0 and not added.keys() & chosen:
        raise UserError(
            "model.head_lr_factor",
            f"{head_lr_factor:g} would change nothing, because no new layer is trained (the network's head is "
            "pretrained, or frozen)",
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
    """`AdamW`, `SGD`, … from torch.optim, or a dotted path."""
    module, _, cls = name.rpartition(".")
    try:
        found = getattr(import_module(module) if module else torch.optim, cls)
    except (ImportError, AttributeError, TypeError, ValueError):
        known = [n for n in dir(torch.optim) if isinstance(getattr(torch.optim, n), type)]
        raise UserError("model.optimizer", f"no '{name}' in torch.optim{nearest(name, known)}") from None
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise UserError("model.optimizer", f"'{name}' is not an optimizer")
    return found


def trained_as_published(settings: Mapping[str, Any]) -> bool:
    """Whether a module's settings train as the papers of L2-SP and LwF do: SGD with momentum, on all of the network, at one
    rate for all its layers, without an average of weights.
    """
    momentum = (settings["optimizer_args"] or {}).get("momentum")
    plainly = settings["freeze"] is None and settings["ema_decay"] is None and settings["layer_decay"] == 1.0
    return optimizer_class(settings["optimizer"]) is torch.optim.SGD and bool(momentum) and plainly


def make_optimizer(name: str, groups: list[dict[str, Any]], arguments: dict[str, Any] | None) -> Optimizer:
    """Builds the optimizer with exactly these arguments: lr and weight_decay stand in the groups, the rest in
    `arguments`; nothing is inherited from another optimizer's defaults.
    """
    cls, arguments = optimizer_class(name), dict(arguments or {})
    known = list(signature(cls).parameters)
    for reserved in ("lr", "weight_decay", "params"):
        if reserved in arguments:
            raise UserError("model.optimizer_args", f"'{reserved}' has its own setting beside optimizer_args")
    for argument in arguments:
        if argument not in known:
            raise UserError("model.optimizer_args", f"{cls.__name__} has no '{argument}'{nearest(argument, known)}")
    if "weight_decay" not in known:
        if any(g["weight_decay"] for g in groups):
            raise UserError("model.weight_decay", f"{cls.__name__} has no weight decay", "set it to 0")
        groups = [{k: v for k, v in g.items() if k != "weight_decay"} for g in groups]
    names = [g["names"] for g in groups]
    try:
        optimizer = cls([{k: v for k, v in g.items() if k != "names"} for g in groups], **arguments)
    except (ValueError, TypeError, LookupError, RuntimeError, AttributeError) as error:
        raise UserError(
            "model.optimizer_args", f"{cls.__name__} refuses {arguments or 'to be without arguments'}: {error}"
        ) from None
    for group, n in zip(optimizer.param_groups, names, strict=True):
        group["names"] = n
    return optimizer


def warmup_steps(warmup: float, total_steps: int) -> int:
    """`warmup` below 1 is a share of all optimizer steps, from 1 on a number of steps."""
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
    """The schedule as a torch scheduler, to be stepped once per optimizer step. It covers the steps from `begun()` on."""

    def factor(step: int) -> float:
        start = begun()
        steps = total_steps - start
        return schedule(kind, warmup_steps(warmup, steps), steps)(max(0, step - start))

    return LambdaLR(optimizer, factor)


def follow(optimizer: Optimizer, schedulers: Sequence[LRScheduler], change: Change) -> None:
    """Keeps an optimizer and its schedulers in step with the trainable set.

    What is frozen loses its gradient, so that the optimizer passes it over, and its moments, so that it would begin again with
    fresh ones. Its group, with rate and weight decay, stays.
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
