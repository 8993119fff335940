"""Exponential moving average of the student's weights, used to validate, to test and to export."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sft_lightning.modules.base import SFTModule
from sft_lightning.sharding.tensors import gathered, local, part_of

KEY = "raw_weights"


class EMA(Callback):
    """w̄ ← d·w̄ + (1 − d)·w after each optimizer step, from w at the start; buffers are the student's.

    Checkpoints hold the averaged weights as the module's, and the raw ones beside them to resume with.

    Args:
        decay: d, per optimizer step.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] = {}
        self._final_raw: dict[str, Tensor] = {}  # after training, for checkpoints that are saved only then
        self._restored: dict[str, dict[str, Tensor]] = {}
        self._step = 0

    def _weights(self, module: LightningModule) -> dict[str, Tensor]:
        assert isinstance(module, SFTModule) and module.network is not None
        return {n: p.data for n, p in module.network.named_parameters() if p.requires_grad}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # the validation that a fit may end with sets up too
            self._final_raw = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = self._weights(pl_module)
        if self._restored:
            # The module was restored with the averaged weights; the raw ones go on training.
            self.average = {
                n: part_of(v, weights[n]).to(weights[n].device) for n, v in self._restored["average"].items()
            }
            for name, value in self._restored["raw"].items():
                weights[name].copy_(part_of(value, weights[name]))
            self._restored = {}
        elif not self.average:
            self.average = {n: w.clone() for n, w in weights.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Only here does a resumed trainer know its step: a micro-batch amid the next one must not count as one."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        weights = self._weights(pl_module)
        average, now = [local(a) for a in self.average.values()], [local(weights[n]) for n in self.average]
        torch._foreach_lerp_(average, now, 1.0 - self.decay)

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
        """The average is the result."""
        if self.average:
            self._swap_in(pl_module)
            self._raw, self.average, self._final_raw = {}, {}, self._raw

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Also where a resumed run had no step left."""
        self.on_train_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self.average and not self._final_raw:
            return
        raw = self._raw or self._final_raw or self._weights(pl_module)
        checkpoint[KEY] = {n: gathered(w) for n, w in raw.items()}
        assert isinstance(pl_module, SFTModule) and pl_module.network is not None
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
