"""The trainable set: decides which parameters are trained now. Only it sets `requires_grad`, and it notifies listeners."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.networks.base import Network


@dataclass(frozen=True)
class Change:
    """A change of the trainable set, made between two optimizer steps."""

    thawed: frozenset[str]
    """Names of parameters that are trained from now on"""
    frozen: frozenset[str]
    """Names of parameters that are frozen from now on"""
    step: int
    """Optimizer steps done"""
    lr_ratio: float
    """Factor on the learning rates from now on"""
    restarts: bool
    """Whether the learning-rate schedule restarts"""


class TrainableSet:
    """Which parameters of a network are trained now, and which may be trained in this run.

    `allowed` is fixed before training: what the network leaves trainable, less what `freeze` freezes. `train` chooses from it,
    between two optimizer steps, and calls the listeners in the order of their registration. The module's own listener updates
    optimizer, schedule, modes of layers and DDP; EMA and the console have theirs. A new client calls only `train`.
    Names are full names of parameters, which stay valid when sharding replaces the tensors.

    Args:
        network: The network, just built.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.allowed = frozenset(n for n, p in network.named_parameters() if p.requires_grad)
        self.trained = self.allowed
        self.lr_factor = 1.0
        """Current factor on the learning rates of the settings"""
        self.schedule_from = 0
        """Optimizer step at which the learning-rate schedule began"""
        self.unclaimed = False
        """Whether the set comes from a checkpoint, and no client has called `train` yet"""
        self._listeners: dict[str, Callable[[Change], None]] = {}

    # ---- queries ----

    def of(self, *sets: str) -> frozenset[str]:
        """Names of trainable parameters in these parameter sets or layers of the network: 'new', 'shared', a layer's name."""
        known = {**dict(self.network.layers()), **self.network.parameter_sets()}
        if unknown := [s for s in sets if s not in known]:
            raise UserError(
                "trainable.of", f"the network has no parameter set or layer '{unknown[0]}'; it has {', '.join(known)}"
            )
        return self.allowed & {name for s in sets for name in known[s]}

    def count(self, names: Iterable[str] | None = None) -> int:
        """Number of scalar parameters in `names`; default in all that is trained now."""
        chosen = self.trained if names is None else frozenset(names)
        return sum(p.numel() for n, p in self.network.named_parameters() if n in chosen)

    # ---- before training ----

    def allow(self, names: Iterable[str]) -> None:
        """Allows training these parameters."""
        self.allowed |= frozenset(names)
        self._set(self.allowed)

    def forbid(self, names: Iterable[str]) -> None:
        """Forbids training these parameters."""
        self.allowed -= frozenset(names)
        self._set(self.allowed)

    def reset(self) -> None:
        """Trains everything allowed, at the settings' learning rates, as at the start of a fit."""
        self._set(self.allowed)
        self.lr_factor, self.schedule_from, self.unclaimed = 1.0, 0, False

    # ---- in training ----

    def listen(self, name: str, listener: Callable[[Change], None]) -> None:
        """Registers `listener` to be called at each change; replaces one of the same name."""
        self._listeners[name] = listener

    def train(self, names: Iterable[str], step: int, lr_factor: float = 1.0, restart_schedule: bool = False) -> bool:
        """Trains exactly `names` from optimizer step `step` on; returns whether that is a change.

        A thawed parameter starts with fresh moments, at the learning rate and weight decay of its group. A frozen parameter
        keeps its value to the bit.

        Args:
            names: Full names, all in `allowed`.
            step: Optimizer steps done; no gradient may be accumulated.
            lr_factor: Factor on the learning rates of the settings from now on.
            restart_schedule: Restart warm-up and decay of the learning rate over the remaining steps.

        Raises:
            UserError: `names` is empty, or has parameters that must not be trained.
        """
        wanted = frozenset(names)
        self.unclaimed = False
        if wanted == self.trained:
            return False
        if not wanted:
            raise UserError("trainable.train", "must have at least one parameter to train, got none", "freeze less")
        if beyond := sorted(wanted - self.allowed):
            raise UserError(
                "trainable.train", f"{beyond[0]} is frozen by model.freeze or by the network", "freeze less"
            )
        ratio = lr_factor / self.lr_factor
        change = Change(wanted - self.trained, self.trained - wanted, step, ratio, restart_schedule)
        self._set(wanted)
        self.lr_factor = lr_factor
        self.schedule_from = step if restart_schedule else self.schedule_from
        for listener in self._listeners.values():
            listener(change)
        return True

    def _set(self, names: frozenset[str]) -> None:
        self.trained = names
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name in names)

    # ---- in checkpoints ----

    def state(self) -> dict[str, Any]:
        """The state as plain values; `trained` is None if everything allowed is trained."""
        some = None if self.trained == self.allowed else sorted(self.trained)
        return {"trained": some, "lr_factor": self.lr_factor, "schedule_from": self.schedule_from}

    def load(self, state: dict[str, Any] | None) -> None:
        """Loads a state before optimizer and DDP are built; calls no listener. None: an old checkpoint without a state."""
        self.reset()
        if state is None:
            return
        if state["trained"] is not None:
            self._set(self.allowed & frozenset(state["trained"]))
            self.unclaimed = True
        self.lr_factor, self.schedule_from = state["lr_factor"], state["schedule_from"]

    def check_claimed(self) -> None:
        """Raises UserError if a checkpoint trains only a part, and nothing in this run would ever train the rest."""
        if self.unclaimed:
            raise UserError(
                "ckpt_path",
                f"the checkpoint trains {len(self.trained)} of {len(self.allowed)} tensors, because its run had LPFT or "
                "head_warmup, and this run has neither",
                "set LPFT or model.init_args.head_warmup as in the checkpoint's run",
            )
