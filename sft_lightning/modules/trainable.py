"""The trainable set: which parameters are trained now. It alone sets `requires_grad`, and tells its listeners of a change."""

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
    """Names of parameters that stand still from now on"""
    step: int
    """Optimizer steps done"""
    lr_ratio: float
    """Learning rates from now on, as a multiple of those before"""
    restarts: bool
    """Whether the learning-rate schedule begins again"""


class TrainableSet:
    """Which parameters of a network are trained now, and which may be trained in this run.

    `allowed` is settled before training: what the network leaves trainable, less what `freeze` names. `train` chooses from it,
    between two optimizer steps; listeners are told in the order in which they came. The module's own listener keeps optimizer,
    schedule, modes of layers and DDP in step; EMA and the console have theirs. A new client calls `train` alone.
    Names are full names of parameters. They stay valid where sharding replaces the tensors.

    Args:
        network: The network, just built.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.allowed = frozenset(n for n, p in network.named_parameters() if p.requires_grad)
        self.trained = self.allowed
        self.lr_factor = 1.0
        """Learning rates now, as a multiple of the settings'"""
        self.schedule_from = 0
        """Optimizer step at which the learning-rate schedule began"""
        self.unclaimed = False
        """Whether a checkpoint brought the set, and no client has asked for it yet"""
        self._listeners: dict[str, Callable[[Change], None]] = {}

    # ---- what is there ----

    def of(self, *sets: str) -> frozenset[str]:
        """Names of what may be trained, of these parameter sets or layers of the network: 'new', 'shared', a layer's name."""
        known = {**dict(self.network.layers()), **self.network.parameter_sets()}
        if unknown := [s for s in sets if s not in known]:
            raise UserError(
                "trainable set", f"the network has no parameter set or layer '{unknown[0]}'; it has {', '.join(known)}"
            )
        return self.allowed & {name for s in sets for name in known[s]}

    def count(self, names: Iterable[str] | None = None) -> int:
        """Number of single parameters in `names`; of what is trained now without."""
        chosen = self.trained if names is None else frozenset(names)
        return sum(p.numel() for n, p in self.network.named_parameters() if n in chosen)

    # ---- before training ----

    def allow(self, names: Iterable[str]) -> None:
        """Adds to what may be trained."""
        self.allowed |= frozenset(names)
        self._set(self.allowed)

    def forbid(self, names: Iterable[str]) -> None:
        """Takes away from what may be trained."""
        self.allowed -= frozenset(names)
        self._set(self.allowed)

    def reset(self) -> None:
        """All that may be trained is trained, at the settings' learning rates: as at the start of a fit."""
        self._set(self.allowed)
        self.lr_factor, self.schedule_from, self.unclaimed = 1.0, 0, False

    # ---- in training ----

    def listen(self, name: str, listener: Callable[[Change], None]) -> None:
        """Calls `listener` at each change; one of the same name is replaced."""
        self._listeners[name] = listener

    def train(self, names: Iterable[str], step: int, lr_factor: float = 1.0, restart_schedule: bool = False) -> bool:
        """Trains exactly `names` from optimizer step `step` on; returns whether that is a change.

        What is thawed begins with fresh moments, at the rate and the weight decay of its group. What is frozen keeps its
        value to the bit.

        Args:
            names: Full names, all in `allowed`.
            step: Optimizer steps done; no gradient may be accumulated.
            lr_factor: Learning rates from now on, as a multiple of the settings'.
            restart_schedule: Let warm-up and decay of the learning rate begin again, over the steps that are left.

        Raises:
            UserError: Nothing would be trained, or something that `freeze` stops.
        """
        wanted = frozenset(names)
        self.unclaimed = False
        if wanted == self.trained:
            return False
        if not wanted:
            raise UserError("trainable set", "nothing would be left to train")
        if beyond := sorted(wanted - self.allowed):
            raise UserError("trainable set", f"{beyond[0]} is stopped by model.freeze or by the network: freeze less")
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
        """Plain values; `trained` is None where all that may be trained is."""
        some = None if self.trained == self.allowed else sorted(self.trained)
        return {"trained": some, "lr_factor": self.lr_factor, "schedule_from": self.schedule_from}

    def load(self, state: dict[str, Any] | None) -> None:
        """Takes up a state, before optimizer and DDP are made; nobody is told. None: a checkpoint from before there was one."""
        self.reset()
        if state is None:
            return
        if state["trained"] is not None:
            self._set(self.allowed & frozenset(state["trained"]))
            self.unclaimed = True
        self.lr_factor, self.schedule_from = state["lr_factor"], state["schedule_from"]

    def check_claimed(self) -> None:
        """Raises UserError where a checkpoint trains a part, and nothing here would ever train the rest."""
        if self.unclaimed:
            raise UserError(
                "ckpt_path",
                f"the checkpoint trains {len(self.trained)} of {len(self.allowed)} tensors, as LPFT or head_warmup of "
                "its run asked, and this run has neither",
                "set it as in the checkpoint's run",
            )
