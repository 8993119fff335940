"""Trains a case with a variant in any split of the work, and keeps what the optimizer saw at each step."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.structures import Batch
from sft_lightning.data import SFTDataModule
from sft_lightning.modules import SFTModule
from sft_lightning.sharding.tensors import part_of, whole
from tests.exactness.cases import case_of, make
from tests.support import fit, own_callbacks, weights

GLOBAL_BATCH, ROWS, STEPS = 16, 21, 3
"""A whole step and one of 5 rows: ragged, and a window that is not full; then a whole one of the next epoch."""
CLIP = 0.05  # less than the gradient of any step
DISPLACED = 0.05

Tensors = dict[str, Tensor]
TRAINING: dict[str, tuple[str, float, dict[str, Any]]] = {
    "float64": ("64-true", 1e-6, {"lr": 1e-2, "weight_decay": 0.1, "lr_schedule": "cosine", "warmup": 1}),
    "float32": ("32-true", 1e-5, {"optimizer": "SGD", "lr": 0.05, "optimizer_args": {"momentum": 0.9}}),
    "float32, AdamW": ("32-true", 1e-5, {"lr": 1e-2}),
}
"""Precision as Lightning names it, bound on relative errors, how it is trained: AdamW, and SGD with momentum.

AdamW divides each gradient by its own size, so what single precision leaves of a gradient that is 0 (that of a key's
bias, for one: softmax does not see it) becomes a step like any other. There, gradients are held to the bound at the
first step, where the weights are the same, and what becomes of it later is noted.
"""
NO_GRADIENT = ("key.bias", "k_lin.bias")
"""A key's bias: its gradient is 0 but for rounding, so its length is nothing to compare with, and that of all is taken."""
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6}
"""The same holds for a gradient that is no longer than this share of all: where softmax is over tokens, as in question
answering, a bias of the head or just below it adds the same to all of them."""


@dataclass
class Step:
    """One optimizer step."""

    before: Tensors
    """Weights when its first micro-batch came"""
    rows: list[int] = field(default_factory=list)
    """Row numbers of its samples on this rank, fillers left out"""
    unclipped: Tensors = field(default_factory=dict)
    """Gradients with all terms, before clipping"""
    clipped: Tensors = field(default_factory=dict)
    """Gradients as the optimizer saw them"""
    after: Tensors = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)


class Steps(Callback):
    """Moves the student away from the teacher, and records optimizer steps."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._open = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        displace(pl_module)
        clip = pl_module.configure_gradient_clipping

        def spy(*arguments: Any, **named: Any) -> None:
            self.steps[-1].unclipped = gradients(pl_module)
            clip(*arguments, **named)

        pl_module.configure_gradient_clipping = spy

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._open:
            self.steps.append(Step(weights(pl_module)))
            self._open = True
        self.steps[-1].rows += real_rows(batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == len(self.steps):
            step = self.steps[-1]
            step.clipped, step.after = gradients(pl_module), weights(pl_module)
            step.logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
            self._open = False


@torch.no_grad()
def displace(module: LightningModule) -> None:
    """Moves the student away from where it started, so that there is something to pull back from the first step on.

    Close to the start an anchor is a difference of nearly equal numbers: in single precision mostly rounding.
    """
    generator = torch.Generator().manual_seed(1)
    for parameter in module.network.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.requires_grad:
            parameter.add_(part_of(noise.to(parameter.dtype) * DISPLACED, parameter))


def gradients(module: LightningModule) -> Tensors:
    """A copy of the gradients of the network's parameters."""
    return {n: whole(p.grad).clone() for n, p in module.network.named_parameters() if p.grad is not None}


def real_rows(batch: Batch) -> list[int]:
    """Row numbers of the samples in a batch that count."""
    marked, index = batch["select"] if "select" in batch else batch.get("real"), batch["index"]
    return (index if marked is None else index[marked if marked.ndim == 1 else marked.flatten(1).any(1)]).tolist()


@dataclass
class Run:
    """A finished training."""

    module: SFTModule
    trainer: Trainer
    data: SFTDataModule
    steps: list[Step]
    metrics: dict[str, float]
    """What the trainer had measured when training ended."""


def train(
    case: str,
    variant: str,
    root: Path,
    kind: str = "float64",
    accumulate: int = 1,
    *,
    validate: bool = False,
    dropout: float = 0.0,
    seed: int | None = 0,
    data: dict[str, Any] | None = None,
    callbacks: Iterable[Callback] = (),
    **settings: Any,
) -> Run:
    """STEPS optimizer steps, clipped; with `validate`, metrics and retention after the epoch.

    `seed` is that of the new head, or None for the generators as they are.
    """
    own, (precision, _, arguments) = case_of(case), TRAINING[kind]
    module = make(case, variant, root, dropout, **arguments)
    samples = own.data(**{"sizes": (ROWS, 5, 5), "batch_size": GLOBAL_BATCH, "eval_batch_size": 4, **(data or {})})
    recorder = Steps()
    watching: list[Callback] = [recorder, *own_callbacks(variant), *callbacks]
    if own.source is not None and (validate or module.needs_source):
        watching.append(RetentionMonitor(own.source(sizes=(8, 5, 5), batch_size=4)))
    trainer = fit(
        module,
        samples,
        seed=torch.initial_seed() if seed is None else seed,
        **{
            "max_steps": STEPS,
            "precision": precision,
            "gradient_clip_val": CLIP,
            "accumulate_grad_batches": accumulate,
            "limit_val_batches": 1.0 if validate else 0,
            "callbacks": watching,
            **settings,
        },
    )
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
    return Run(module, trainer, samples, recorder.steps, metrics)


@lru_cache(maxsize=8)
def in_one_piece(case: str, variant: str, root: Path, kind: str = "float64") -> Run:
    """The run that others are compared with: one process, one micro-batch a step. Left as it is by those who use it."""
    return train(case, variant, root, kind, validate=True)


# ---- differences ----


def length(tensors: Iterable[Tensor]) -> float:
    """Euclidean norm of all tensors together."""
    return float(torch.stack([t.double().norm() for t in tensors]).norm())


def error(found: Tensors, expected: Tensors, shifts: tuple[str, ...] = ()) -> tuple[float, str]:
    """Largest difference of a tensor relative to its length, and which it is; that of `shifts` relative to all (see Case)."""
    assert found.keys() == expected.keys(), f"other tensors: {found.keys() ^ expected.keys()}"
    whole, worst, rounded = length(expected.values()), (0.0, "none"), rounding(expected)
    for name, value in expected.items():
        difference = float((found[name].double() - value.double()).norm())
        of_all = name.endswith((*NO_GRADIENT, *shifts)) or name in rounded
        measure = whole if of_all else float(value.double().norm())
        assert difference == difference, f"{name} is not a number"
        if difference:
            worst = max(worst, (difference / measure if measure else float("inf"), name))
    return worst


def rounding(gradients: Tensors) -> set[str]:
    """Names of the tensors that are 0 but for rounding."""
    whole = length(gradients.values())
    return {n for n, t in gradients.items() if float(t.double().norm()) <= ROUNDING.get(t.dtype, 0.0) * whole}


def without_key_biases(tensors: Tensors) -> Tensors:
    """All tensors but the biases of attention's keys; GPT-2 keeps these between those of queries and of values."""
    kept = {n: t for n, t in tensors.items() if not n.endswith(NO_GRADIENT)}
    return {n: torch.cat([t.chunk(3)[i] for i in (0, 2)]) if n.endswith("c_attn.bias") else t for n, t in kept.items()}


# ---- the same from single samples ----


def single(run: Run, row: int) -> Batch:
    """One training sample as a batch, ready for the network."""
    split = run.data.splits["train"]
    batch = run.data.device_transform(split[int(np.flatnonzero(split.rows == row)[0])])
    double = next(run.module.network.parameters()).dtype == torch.float64
    if double:
        batch["x"] = {k: v.double() if v.is_floating_point() else v for k, v in batch["x"].items()}
    return batch


@dataclass
class ByHand:
    """What an optimizer step has to be."""

    grads: Tensors
    items: int
    task: float
    anchor: float


def by_hand(run: Run, step: Step, rows: list[int]) -> ByHand:
    """The step on these rows, one sample at a time: (Σ loss + Σ anchor) / number of items, then the penalty once."""
    module = run.module
    kept = {n: v.clone() for n, v in module.network.state_dict().items()}
    module.train()
    module.network.load_state_dict(step.before)
    for parameter in module.network.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    items, sums = 0, [0.0, 0.0]
    for row in rows:
        batch = single(run, row)
        output = module.output(batch)
        loss, anchor = module.objective.loss(output, batch).total, module.anchor_loss(batch, output)
        (loss if anchor is None else loss + anchor).backward()
        items += int(batch["count"])
        sums = [sums[0] + float(loss.detach()), sums[1] + (0.0 if anchor is None else float(anchor.detach()))]
    for parameter in module.network.parameters():
        if parameter.grad is not None and items:
            parameter.grad /= items
    penalty = module.penalty_value()
    module.add_penalty_grad(run.trainer.optimizers[0])
    found = ByHand(gradients(module), items, sums[0] / max(items, 1), sums[1] / max(items, 1) + float(penalty or 0.0))
    module.network.load_state_dict(kept)
    module.zero_grad()
    return found
