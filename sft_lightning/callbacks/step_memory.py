"""Counts the memory that a training step holds: weights, gradients, optimizer state, teacher, copies and activations."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from sft_lightning.callbacks.ema import EMA
from sft_lightning.core.graph_memory import kept_for_backward, storages
from sft_lightning.core.structures import Batch
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.sharding.tensors import is_sharded, local

HOOKS = ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "on_train_batch_end")
PARTS = ("weights", "gradients", "optimizer", "teacher", "copies", "activations")
"""What `StepMemory.bytes` holds"""


class StepMemory(Callback):
    """Counts the bytes that the first optimizer step holds on this rank, the same on every device, and changes no number.

    `weights` are the network's parameters and buffers; `teacher` those of the pretrained network, 0 while they rest on disk;
    `copies` what the variant and an average of weights keep beside them. `activations` is what the graph of the first
    micro-batch's loss keeps for the backward pass, inputs included and weights left out, each block of memory once. It is
    absent with torch.compile, gradient_checkpointing and sharded weights. If other parameters are trained later on, that
    step is counted too, and the larger one is kept. Libraries' own buffers and the loaded data are not counted.
    """

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        """Bytes by part; empty until a step is counted"""
        self.samples = 0
        """Samples of the micro-batch whose activations were counted"""
        self._now: dict[str, int] = {}
        self._micro_batch = self._samples = self._step = 0

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.bytes.values())

    def record(self, trainer: Trainer) -> dict[str, Any]:
        """The entry `step_memory` of run.json; empty if no step was counted."""
        if not self.bytes:
            return {}
        found: dict[str, Any] = {"bytes": {**self.bytes, "total": self.total}, "samples": self.samples}
        if (device := trainer.strategy.root_device).type == "cuda":
            found["cuda_peak_bytes"] = torch.cuda.max_memory_allocated(device)
        return found

    # ---- the step that is counted ----

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Waits for the first step, and for the first after each change of the trainable set."""
        self.bytes = {}
        assert isinstance(pl_module, TunedModule)
        if pl_module.solves:
            self._rest()
            return
        pl_module.trainable.listen("memory", lambda change: self._begin(change.step))
        self._begin(trainer.global_step)

    def _begin(self, step: int) -> None:
        self._now, self._samples, self._step = {}, 0, step
        for hook in HOOKS:
            vars(self).pop(hook, None)

    def _rest(self) -> None:
        """Takes the hooks away, so that later steps do not pay for them."""
        for hook in HOOKS:
            setattr(self, hook, None)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._micro_batch = len(batch.get("index", ()))  # the trainable set may change after this, which begins a count

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        assert isinstance(pl_module, TunedModule) and pl_module.network is not None
        self.on_before_backward = None  # type: ignore[method-assign, assignment]
        self._samples = self._micro_batch
        network, teacher = pl_module.network, pl_module.teacher
        if pl_module.hparams["compile"] or any(map(is_sharded, network.parameters())):
            return
        besides = [*network.parameters(), *network.buffers()]
        besides += [] if teacher is None else [*teacher.network.parameters(), *teacher.network.buffers()]
        kept = kept_for_backward(loss, besides)
        if kept is not None:
            self._now["activations"] = kept

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._now["gradients"] = size(grads)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step or "gradients" not in self._now:
            return
        assert isinstance(pl_module, TunedModule) and pl_module.network is not None
        network, teacher, optimizer = pl_module.network, pl_module.teacher, trainer.optimizers[0]
        averages = [a for c in trainer.callbacks if isinstance(c, EMA) for a in c.average.values()]  # type: ignore[attr-defined]
        state = [v for held in optimizer.state.values() for v in held.values() if isinstance(v, Tensor)]
        found = {
            **self._now,
            "weights": size([*network.parameters(), *network.buffers()]),
            "optimizer": size(state),
            "copies": size([*averages, *pl_module.kept_tensors()]),
        }
        if teacher is not None:
            held = [] if teacher.rests else [*teacher.network.parameters(), *teacher.network.buffers()]
            found["teacher"] = size(held)
        if sum(found.values()) > self.total:
            self.bytes, self.samples = {part: found[part] for part in PARTS if part in found}, self._samples
        self._rest()


def size(tensors: Iterable[Any]) -> int:
    """Bytes that this rank holds of tensors, each block of memory once."""
    return sum(storages([local(t) for t in tensors]).values())


def readable(count: int) -> str:
    """Bytes in words: `512 B`, `17.8 MB`, with three digits."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if float(f"{value:.3g}") < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def memory_line(found: dict[str, Any]) -> str:
    """The line of a run's summary, from `StepMemory.record`."""
    held = dict(found["bytes"])
    total = held.pop("total")
    parts = ", ".join(f"{part} {readable(count)}" for part, count in held.items() if count)
    if "activations" in held:
        parts += f" (micro-batch of {found['samples']})"
    else:
        parts += "; activations not counted"
    peak = f"; peak on the GPU {readable(found['cuda_peak_bytes'])}" if "cuda_peak_bytes" in found else ""
    return f"memory     a step holds {readable(total)}: {parts}{peak}"
