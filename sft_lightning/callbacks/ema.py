"""Exponential moving average of the student's weights, used to validate, to test and to export."""

from math import prod
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sft_lightning.modules.tuned import TunedModule
from sft_lightning.sharding.tensors import gathered, local, part_of

KEY = "raw_weights"
MUCH = 0.1
"""If the start's share in the final average is above this, a note is printed"""


class EMA(Callback):
    """w̄ ← d_t·w̄ + (1 − d_t)·w after optimizer step t = 0, 1, …, from w at the start; buffers are the student's.

    With warm-up d_t = min(d, (1 + t)/(10 + t)), as TensorFlow's ExponentialMovingAverage with num_updates, so that a short
    run's average holds what it learned. With a constant d a share d^steps of the start stays in the average (67 % for 0.999
    after 400 steps); above 10 % a note is printed. Checkpoints hold the averaged weights as the module's, and the raw ones
    beside them to resume with. The average of a frozen parameter is the parameter, and starts there when it is thawed.

    Args:
        decay: d, per optimizer step.
        warmup: Begin with a smaller decay, (1 + t)/(10 + t) at step t, until it reaches decay.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        self.decay, self.warmup = decay, warmup
        self.average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] = {}
        self._final_raw: dict[str, Tensor] = {}  # for checkpoints that are saved after training
        self._restored: dict[str, dict[str, Tensor]] = {}
        self._step = 0

    def decay_at(self, step: int) -> float:
        """d_t of optimizer step t = 0, 1, …"""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def note(self, trainer: Trainer) -> str | None:
        """A warning if the final average will still hold much of the start's weights; None if it will hold little."""
        steps = trainer.estimated_stepping_batches
        if steps == float("inf") or (left := prod(map(self.decay_at, range(int(steps))))) <= MUCH:
            return None
        remedy = "set a smaller ema_decay" if self.warmup else "set ema_warmup true, or a smaller ema_decay"
        return (
            f"ema_decay {self.decay:g}: after {int(steps)} steps the averaged weights will still be {left:.0%} the start's; "
            f"{remedy} to forget it sooner"
        )

    def _weights(self, module: LightningModule) -> dict[str, Tensor]:
        assert isinstance(module, TunedModule) and module.network is not None
        return {n: p.data for n, p in module.network.named_parameters() if n in module.trainable.allowed}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # the validation at the end of a fit calls setup too
            self._final_raw = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = self._weights(pl_module)
        if self._restored:
            # The module was restored with the averaged weights; training resumes from the raw ones.
            self.average = {
                n: part_of(v, weights[n]).to(weights[n].device) for n, v in self._restored["average"].items()
            }
            for name, value in self._restored["raw"].items():
                weights[name].copy_(part_of(value, weights[name]))
            self._restored = {}
        elif not self.average:
            self.average = {n: w.clone() for n, w in weights.items()}

        module = pl_module
        assert isinstance(module, TunedModule)
        module.trainable.listen("average", lambda change: self._begin(module, change.thawed | change.frozen))

    @torch.no_grad()
    def _begin(self, module: TunedModule, names: frozenset[str]) -> None:
        """Sets the averages of parameters that were just thawed or frozen to the parameters themselves."""
        weights = self._weights(module)
        for name in names & self.average.keys():
            self.average[name].copy_(weights[name])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the step here, as a resumed trainer knows it only now: a micro-batch within a step must not count as a step."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        weights = self._weights(pl_module)
        average, now = [local(a) for a in self.average.values()], [local(weights[n]) for n in self.average]
        torch._foreach_lerp_(average, now, 1.0 - self.decay_at(trainer.global_step - 1))

    def _swap_in(self, module: LightningModule) -> None:
        if self.average and not self._raw:
            weights = self._weights(module)
            self._raw = {n: w.clone() for n, w in weights.items()}
            for name, value in self.average.items():
                weights[name].copy_(value)

    def _swap_out(self, module: LightningModule) -> None:
        weights = self._weights(module)
        for name, value in self._raw.items():
            weights[name].copy_(value)
        self._raw = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap_out(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the averaged weights in the module, as the result of training."""
        if self.average:
            self._swap_in(pl_module)
            self._raw, self.average, self._final_raw = {}, {}, self._raw

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Does the same if a resumed run had no step left, for which on_train_end is not called."""
        self.on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self.average and not self._final_raw:
            return
        raw = self._raw or self._final_raw or self._weights(pl_module)
        checkpoint[KEY] = {n: gathered(w) for n, w in raw.items()}
        assert isinstance(pl_module, TunedModule) and pl_module.network is not None
        names: dict[int, list[str]] = {}  # a tied parameter has several
        for name, parameter in pl_module.network.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        for aliases in names.values():
            if aliases[0] in self.average:
                whole = gathered(self.average[aliases[0]])
                checkpoint["state_dict"] |= {f"network.{name}": whole for name in aliases}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if KEY in checkpoint and trainer.state.fn == "fit":
            state = checkpoint["state_dict"]
            self._restored = {"raw": checkpoint[KEY], "average": {n: state[f"network.{n}"] for n in checkpoint[KEY]}}
