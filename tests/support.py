"""What the tests share: a tiny pretrained net on digits, a quiet trainer, a recorder, and training in plain PyTorch."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sft_lightning.callbacks import LPFT, RetentionMonitor
from sft_lightning.core.structures import Batch, InputSpec, Output, TaskInfo
from sft_lightning.data.base import SFTDataModule, Splits
from sft_lightning.data.vision.base import ArrayImages, ImageData
from sft_lightning.data.vision.digits import Digits
from sft_lightning.modules import EWCSFT, L2SPSFT, DistillSFT, ExtendSFT, PlainSFT, SFTModule
from sft_lightning.modules.base import VARIANTS as REGISTERED
from sft_lightning.networks import MLP, Network, spec
from sft_lightning.networks.small import SmallNetwork
from sft_lightning.sharding.tensors import whole

HIDDEN = [24, 16]
OLD, NEW = [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]

VARIANTS: dict[str, tuple[type[SFTModule], dict[str, Any]]] = {
    "plain": (PlainSFT, {}),
    "distill-logits-mse": (DistillSFT, {"anchor_weight": 0.3}),
    "distill-logits-kl": (DistillSFT, {"anchor_weight": 1.0, "distance": "kl", "temperature": 2.0}),
    "distill-features-cosine": (DistillSFT, {"anchor_weight": 1.0, "on": "features", "distance": "cosine"}),
    "l2sp-loss": (L2SPSFT, {"alpha": 0.1, "beta": 0.01}),
    "l2sp-loss-all": (L2SPSFT, {"alpha": 0.1, "beta": 0.01, "penalise": "all"}),
    "l2sp-decoupled": (L2SPSFT, {"how": "decoupled", "decoupled_weight": 5.0}),
    "ewc": (EWCSFT, {"anchor_weight": 100.0, "fisher_samples": 16}),
}
SOLVED = {"LinearProbe"}
"""Variants without a gradient step: tests/modules/test_linear_probe.py compares their solution with scikit-learn's."""
EXTENDS = {"ExtendSFT"}
"""Variants that need old and new labels in one head: they are tried on a case of their own, see ON_OWN_CASE, and
tests/modules/test_extend.py has other tests of them.
"""
VARIANTS |= {
    name: (cls, {})
    for name, cls in REGISTERED.items()
    if cls.__module__.startswith("sft_lightning.")
    and name not in SOLVED | EXTENDS
    and cls not in {c for c, _ in VARIANTS.values()}
}
"""Every way of fine-tuning with each of its options. A new variant is tried by being registered, with its defaults; one whose
defaults are no example of it belongs in here.
"""
WITH_STAGES: dict[str, tuple[type[SFTModule], dict[str, Any]]] = {
    "lwf": (
        DistillSFT,
        {
            "on": "source_logits",
            "distance": "kl",
            "anchor_weight": 0.25,
            "train_source_head": True,
            "head_warmup": 1,
        },
    ),
    "lpft": (L2SPSFT, {"alpha": 0.1, "beta": 0.01}),
}
"""Those whose steps are not all alike, tried on one case: the first trains the new head alone, the others all"""
ON_OWN_CASE: dict[str, tuple[type[SFTModule], dict[str, Any]]] = {
    "extend": (ExtendSFT, {"loss_over": "own", "anchor_weight": 0.3}),
    "extend-kl-old": (ExtendSFT, {"loss_over": "new", "anchor_weight": 0.3, "distance": "kl", "anchor_on": "old"}),
}
"""Those of EXTENDS, tried where the data has old and new labels"""


def make(variant: str, folder: str, *, network: dict[str, Any] | None = None, **settings: Any) -> SFTModule:
    """A module of `variant` on the pretrained MLP in `folder`."""
    cls, arguments = VARIANTS[variant]
    return cls(pretrained_mlp(folder, **(network or {})), **{**arguments, **settings})


def own_callbacks(variant: str) -> list[Callback]:
    """Those that make a way of fine-tuning what it is."""
    return [LPFT(steps=1, lr_factor=0.5)] if variant == "lpft" else []


def pretrained_mlp(folder: str | None, **arguments: Any) -> dict[str, Any]:
    return spec(MLP, **{"in_features": 64, "hidden": HIDDEN, "pretrained": folder, **arguments})


class NormNet(SmallNetwork):
    """Linear, BatchNorm, ReLU, Dropout, Linear, LayerNorm: what the MLP lacks."""

    def __init__(
        self,
        task: TaskInfo,
        dropout: float = 0.0,
        pretrained: str | None = None,
        keep_source_head: bool = True,
        transforms: list[Any] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        lower = [nn.Flatten(), nn.Linear(64, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(dropout)]
        encoder = nn.Sequential(*lower, nn.Linear(24, 16), nn.LayerNorm(16))
        self.start_from(pretrained, keep_source_head, encoder, 16)

    @property
    def input_spec(self) -> InputSpec:
        return self.image_spec()


def digits(classes: Sequence[int] = NEW, **settings: Any) -> Digits:
    return Digits(**{"classes": list(classes), "batch_size": 16, "seed": 0, **settings})


def settle(data: SFTDataModule, network: Network) -> None:
    """What a module does once both are there."""
    network.settle(data.settle(network.wanted_input()))


def quiet_trainer(**settings: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return Trainer(**{**quiet, **settings})


def fit(
    module: SFTModule, data: SFTDataModule, *, seed: int = 0, ckpt_path: str | None = None, **settings: Any
) -> Trainer:
    """Trains without logger, checkpoints or output; the new head depends on `seed` alone.

    A variant that needs source data gets the digits 0 to 4, where no monitor has others.
    """
    given = settings.get("callbacks", [])
    if module.needs_source and not any(isinstance(c, RetentionMonitor) for c in given):
        settings["callbacks"] = [RetentionMonitor(digits(OLD)), *given]
    trainer = quiet_trainer(**settings)
    torch.manual_seed(seed)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer


def weights(module: LightningModule) -> dict[str, Tensor]:
    """A copy of the network's parameters and buffers."""
    return {n: whole(v.detach()).clone() for n, v in module.network.state_dict().items()}


def moved(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference of any tensor, relative to the tensor's largest value."""
    assert one.keys() == other.keys()
    return max(float((one[n].double() - other[n].double()).abs().max() / other[n].double().abs().max()) for n in one)


class Recorder(Callback):
    """Keeps the weights before training, and after each micro-batch: batch, gradients as the optimizer saw them, weights."""

    def __init__(self) -> None:
        self.start: dict[str, Tensor] = {}
        self.batches: list[Batch] = []
        self.grads: list[dict[str, Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []
        self.logged: list[dict[str, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = weights(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)
        named = pl_module.network.named_parameters()
        self.grads.append({n: p.grad.clone() for n, p in named if p.grad is not None})
        self.weights.append(weights(pl_module))
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})


class Scaled(MixedPrecision):
    """Single precision with a gradient scaler."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**12))

    def forward_context(self) -> AbstractContextManager[None]:
        return nullcontext()


# ---- the same in plain PyTorch, with nothing of the library ----


def mlp(w: dict[str, Tensor], image: Tensor) -> Output:
    """The network of HIDDEN written out: logits, features, source logits."""
    hidden = torch.relu(image.flatten(1) @ w["encoder.1.weight"].T + w["encoder.1.bias"])
    features = torch.relu(hidden @ w["encoder.4.weight"].T + w["encoder.4.bias"])
    source = features @ w["source_head.weight"].T + w["source_head.bias"] if "source_head.weight" in w else None
    return Output(features @ w["head.weight"].T + w["head.bias"], features, source)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """−log p(y), in nats, averaged over items."""
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    return -sum(log_p[i, int(k)] for i, k in enumerate(y)) / len(y)


def train_plainly(
    recorder: Recorder,
    loss: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor],
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    accumulate: int = 1,
    clip: float | None = None,
    before_step: Callable[[dict[str, Tensor]], None] = lambda w: None,
) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """(gradients, weights) after each optimizer step on the recorded batches, each step's micro-batches as one batch."""
    w = {n: v.clone().requires_grad_(not n.startswith("source_head")) for n, v in recorder.start.items()}
    trained = {n: v for n, v in w.items() if v.requires_grad}
    stepper, steps = optimizer(list(trained.values())), []
    for i in range(0, len(recorder.batches), accumulate):
        window = recorder.batches[i : i + accumulate]
        stepper.zero_grad()
        loss(w, torch.cat([b["x"]["image"] for b in window]), torch.cat([b["y"] for b in window])).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(list(trained.values()), clip)
        before_step(trained)
        stepper.step()
        steps.append(({n: v.grad.clone() for n, v in trained.items()}, {n: v.detach().clone() for n, v in w.items()}))
    return steps


def assert_same_training(recorder: Recorder, steps: list[Any], accumulate: int = 1, tolerance: float = 1e-9) -> None:
    """The recorded run has the gradients and weights of `steps`, after each optimizer step."""
    stepped = list(range(accumulate - 1, len(recorder.batches), accumulate))
    assert len(stepped) == len(steps), f"{len(stepped)} optimizer steps were recorded, {len(steps)} are expected"
    for number, (i, (grads, after)) in enumerate(zip(stepped, steps, strict=True), 1):
        for name, expected in grads.items():
            error = float((recorder.grads[i][name] - expected).norm() / expected.norm())
            assert error < tolerance, f"step {number}: the gradient of {name} is off by {error:.1e} of its length"
        error = moved(recorder.weights[i], after)
        assert error < tolerance, f"step {number}: the weights are off by {error:.1e}"


# ---- a small data module whose splits have any size ----


class FewDigits(ImageData):
    """The first rows of scikit-learn's digits of some classes: `sizes` for train, val and test."""

    mean, std = (0.0,), (1.0,)

    def __init__(self, sizes: tuple[int, int, int] = (40, 21, 21), digits: Sequence[int] = tuple(NEW), **kwargs: Any):
        super().__init__(**{"batch_size": 8, "seed": 0, **kwargs})
        self.sizes, self.digits = sizes, list(digits)

    def load(self) -> Splits:
        images, targets = load_digits(return_X_y=True)
        rows = np.flatnonzero(np.isin(targets, self.digits))
        pixels = torch.from_numpy(np.round(images[rows] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
        numbers = np.array([self.digits.index(t) for t in targets[rows]])
        ends = np.cumsum([0, *self.sizes])
        parts = [ArrayImages(pixels[a:b], numbers[a:b]) for a, b in pairwise(ends)]
        return Splits(*parts, labels=[str(d) for d in self.digits])


@torch.no_grad()
def outputs_on(network: Any, data: SFTDataModule, split: str) -> tuple[Output, Tensor]:
    """What a network says on a whole split at once, and the targets: straight from the arrays, in evaluation mode."""
    part = data.splits[split]
    image = part.samples.images[torch.from_numpy(part.rows)].float() / 255
    was = network.training
    out = network.eval()({"image": image.to(next(network.parameters()).dtype)})
    network.train(was)
    return out, torch.from_numpy(np.asarray(part.targets))
