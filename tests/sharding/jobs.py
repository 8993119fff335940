"""What is done on two processes, once as DDP does it and once in parts; each job gives what must be the same."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from sft_lightning.data import SFTDataModule
from sft_lightning.export import export_best
from sft_lightning.modules import SFTModule
from tests.exactness.cases import CASES, make
from tests.sharding.families import tuned
from tests.support import fit, settle, weights

family = tuned


def data_of(case: str) -> SFTDataModule:
    return CASES[case].data(sizes=(21, 9, 9), batch_size=16, eval_batch_size=4)


def measured(trainer: Trainer) -> dict[str, Tensor]:
    return {k: v.detach() for k, v in trainer.callback_metrics.items()}


def norms(root: Path, strategy: str) -> dict[str, Tensor]:
    """Statistics of BatchNorm that move."""
    module = make("images with norms", "plain", root, freeze_batchnorm_stats=False)
    trainer = fit(module, data_of("images with norms"), max_epochs=3, precision="64-true", strategy=strategy, devices=2)
    return {**weights(module), **measured(trainer)}


def mixed(root: Path, strategy: str, precision: str = "bf16-mixed") -> dict[str, Tensor]:
    """Weights after three steps; and bytes per parameter of gathered or cast weights that wait for the backward pass.

    By SGD: AdamW makes a whole step of what rounding leaves of a gradient.
    """
    module = make("gpt2", "distill-logits-mse", root, optimizer="SGD", lr=0.05)
    trainer = fit(module, data_of("gpt2"), max_steps=3, precision=precision, strategy=strategy, devices=2)
    assert trainer.global_step == 3
    return {**weights(module), "kept": torch.tensor(kept(module, data_of("gpt2")))}


def kept(module: SFTModule, data: SFTDataModule) -> float:
    """Memory behind saved tensors of a weight's size, over all parameters, after a forward pass."""
    assert module.network is not None and module._trainer is not None
    data.setup()
    settle(data, module.network)
    batch = data.receive(next(iter(data.loader("train", 0, 1))))
    shapes = {tuple(p.shape) for p in module.network.parameters() if p.ndim > 1}
    shapes |= {s[::-1] for s in shapes}
    saved: list[Tensor] = []
    watching = saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)  # type: ignore[func-returns-value]
    with module._trainer.precision_plugin.forward_context(), watching:
        module.network.train()
        module.output(batch).logits.float().sum()
    weights_alike = [t for t in saved if t.is_floating_point() and tuple(t.shape) in shapes]
    memory = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in weights_alike}
    return sum(memory.values()) / sum(p.numel() for p in module.network.parameters())


def stages(root: Path, strategy: str) -> dict[str, Tensor]:
    """Fitting, validating, testing and fitting on, where Lightning evaluates in inference mode: as it does off gloo."""
    module, data = make("images", "l2sp-loss", root, lr=1e-3), data_of("images")
    found: dict[str, Tensor] = {}
    with patch("lightning.pytorch.loops.utilities._distributed_is_initialized", lambda: False):
        trainer = fit(module, data, max_steps=2, precision="64-true", strategy=strategy, devices=2)
        trainer.validate(module, data, verbose=False)
        found |= measured(trainer)
        trainer.test(module, data, verbose=False)
        found |= measured(trainer)
        trainer.predict(module, data, return_predictions=False)
        trainer.fit_loop.epoch_loop.max_steps = 4
        trainer.fit(module, data)
    return {**weights(module), **found}


def saved(root: Path, strategy: str, precision: str) -> dict[str, Any]:
    """A checkpoint and an export of a network with tied tensors, amid a moving average."""
    module = make("gpt2", "plain", root, lr=1e-2, ema_decay=0.5)
    trainer = fit(module, data_of("gpt2"), max_steps=3, precision=precision, strategy=strategy, devices=2)
    place = root / f"saved-{strategy}-{precision}"
    place.mkdir(exist_ok=True)
    trainer.save_checkpoint(place / "last.ckpt")
    if not trainer.is_global_zero:
        return {}
    export_best(module, place / "last.ckpt", place / "model")
    held = torch.load(place / "last.ckpt", weights_only=True)
    tied = {n: held["state_dict"][f"network.{n}"] for n in ("encoder.wte.weight", "head.weight")}
    one, other = tied.values()
    return {
        "state": held["state_dict"],
        "raw": held["raw_weights"],
        "optimizer": held["optimizer_states"][0]["state"],
        "export": load_file(place / "model" / "model.safetensors"),
        "one under two names": one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr(),
    }
