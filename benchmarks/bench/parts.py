"""Where a step's CPU time goes: clocks around the functions that do each part of it.

A function's time is that without the timed functions inside it, so that parts add up. What no clock is around, such as the loop
of the library that trains, is the rest. Reading a clock takes half a microsecond; there are about 20 in a step.
"""

import functools
import importlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

ASKED = "SFT_BENCH_PARTS"
"""Environment variable that makes an arm's process time its parts"""
PARTS = ("forward", "backward", "optimizer", "anchor", "loader", "hooks, logging")
REST = "Lightning's loop and the rest"
ANCHORS = {
    "distill.DistillSFT": ("anchor_loss",),
    "l2sp.L2SPSFT": ("add_penalty_grad", "before_step", "penalty_value"),
}
TIMED: dict[str, tuple[str, ...]] = {
    "loader": (
        "torch.utils.data.dataloader._BaseDataLoaderIter.__next__",
        "sft_lightning.data.batches.Batches.on_after_batch_transfer",
    ),
    "forward": (
        "sft_lightning.modules.building.BuiltModule.output",
        "sft_lightning.modules.objective.Objective.task_loss",
        "benchmarks.bench.of_lightning.Module.training_step",
    ),
    "backward": ("lightning.pytorch.LightningModule.backward",),
    "optimizer": (
        "torch.optim.adam.adam",
        "torch.optim.Adam._init_group",
        "torch.optim.Optimizer.zero_grad",
        "sft_lightning.modules.training.match_layouts",
    ),
    "anchor": tuple(f"sft_lightning.modules.{cls}.{name}" for cls, names in ANCHORS.items() for name in names),
    "hooks, logging": (
        "sft_lightning.modules.training.TrainingModule.training_step",
        "sft_lightning.modules.training.TrainingModule.on_train_batch_start",
        "sft_lightning.modules.training.TrainingModule.on_before_optimizer_step",
    ),
}
"""Functions by part, each in the place where it is looked up"""
HOOKS = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end")


class Clock:
    """CPU seconds by part, without those of the parts inside."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._inside = [0.0]

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            began = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.process_time() - began
                self.spent[part] += whole - self._inside.pop()
                self._inside[-1] += whole

        return timed

    def wrap(self, path: str, part: str) -> None:
        """Times the function at a dotted path, if its module is there."""
        owner, name = found(path)
        if owner is not None and name in vars(owner):
            setattr(owner, name, self.around(part, vars(owner)[name]))


def found(path: str) -> tuple[Any, str]:
    """The module or class that a dotted path's last name lies in; None for a module that this process has not imported."""
    above, _, name = path.rpartition(".")
    if above in sys.modules or not above:
        return sys.modules.get(above), name
    owner, last = found(above)
    return getattr(owner, last, None), name


def install(timed: dict[str, tuple[str, ...]] | None = None) -> Clock:
    """Puts clocks around all functions of `timed`, by default those of a training step and the hooks of all callbacks."""
    clock = Clock()
    for part, paths in (TIMED if timed is None else timed).items():
        for path in paths:
            clock.wrap(path, part)
    if timed is None:
        from lightning.pytorch.callbacks import Callback

        for cls in below(Callback):
            for hook in HOOKS:
                if hook in vars(cls):
                    setattr(cls, hook, clock.around("hooks, logging", vars(cls)[hook]))
    return clock


def below(cls: type) -> Iterator[type]:
    """All classes derived from one, each once."""
    seen: set[type] = set()
    waiting = [cls]
    while waiting:
        for one in waiting.pop().__subclasses__():
            if one not in seen:
                seen.add(one)
                waiting.append(one)
                yield one


def asked() -> Clock | None:
    """A clock if the environment asks for it."""
    if not os.environ.get(ASKED):
        return None
    importlib.import_module("benchmarks.bench.of_lightning")
    return install()


def reason(result: dict[str, Any] | None, workload: str, arm: str, over: str) -> str:
    """The parts that take most more than in the other arm, in words; empty without a profile."""
    held = (result or {}).get("parts", {}).get(workload, {})
    if arm not in held or over not in held:
        return ""
    whole = held[over]["cpu"]
    more = {name: held[arm].get(name, 0.0) - held[over].get(name, 0.0) for name in held[arm] if name != "cpu"}
    largest = sorted(more, key=lambda name: -more[name])[:2]
    said = [f"{name} +{100 * more[name] / whole:.0f} %" for name in largest if more[name] >= 0.005 * whole]
    return f"of {over}'s step: {', '.join(said)}" if said else ""
