"""`before_step` and `after_step` are called around each optimizer step that changes weights, and around no other."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from sft_lightning.core.structures import Batch
from sft_lightning.modules import L2SPSFT, PlainSFT, SFTModule
from sft_lightning.modules.step_hooks import around_steps
from tests.refused import refused
from tests.support import Recorder, Scaled, digits, fit, pretrained_mlp, weights

SKIPPED = 2
"""The optimizer step whose loss overflows"""


class Watched(PlainSFT):
    """Notes when its hooks are called."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.calls: list[tuple[str, int]] = []
        self.norms: list[float] = []

    def before_step(self, optimizer: Optimizer) -> None:
        self.calls.append(("before", self.trainer.global_step))
        grads = [p.grad for g in optimizer.param_groups for p in g["params"]]
        self.norms.append(float(torch.stack([g.norm() for g in grads]).norm()))

    def after_step(self, optimizer: Optimizer) -> None:
        assert not torch.is_grad_enabled()
        self.calls.append(("after", self.trainer.global_step))


class Overflow(Callback):
    """Makes one step's gradients infinite, as in half precision."""

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if trainer.global_step == SKIPPED:
            loss.data.fill_(float("inf"))
            loss.register_hook(lambda g: g * float("inf"))


@pytest.mark.parametrize("accumulate", [1, 4])
def test_each_step_calls_both_hooks_once_with_clipped_gradients(pretrained: str, accumulate: int) -> None:
    module = Watched(pretrained_mlp(pretrained))
    fit(module, digits(), max_steps=3, accumulate_grad_batches=accumulate, gradient_clip_val=0.01)
    assert module.calls == [(when, step) for step in range(3) for when in ("before", "after")]
    assert module.norms == pytest.approx([0.01] * 3, rel=1e-3), "gradients were not clipped before the hook"


def test_a_step_that_the_gradient_scaler_skips_calls_neither(pretrained: str) -> None:
    module, recorder = Watched(pretrained_mlp(pretrained)), Recorder()
    fit(module, digits(), max_steps=5, plugins=[Scaled()], callbacks=[Overflow(), recorder])
    same = [
        all(torch.equal(a[n], b[n]) for n in a) for a, b in zip(recorder.weights, recorder.weights[1:], strict=False)
    ]
    assert [i + 1 for i, equal in enumerate(same) if equal] == [SKIPPED], (
        "the step was not skipped, so nothing is tested"
    )
    assert [step for when, step in module.calls if when == "after"] == [0, 1, 3, 4]
    assert [step for when, step in module.calls if when == "before"] == [0, 1, 3, 4]


def test_a_skipped_step_does_not_pull_weights_back(pretrained: str) -> None:
    recorder = Recorder()
    module = L2SPSFT(pretrained_mlp(pretrained), how="decoupled", decoupled_weight=10.0, lr=0.02)
    fit(module, digits(), max_steps=5, plugins=[Scaled()], callbacks=[Overflow(), recorder])
    before, after = recorder.weights[SKIPPED - 1], recorder.weights[SKIPPED]
    assert not torch.equal(before["encoder.1.weight"], recorder.start["encoder.1.weight"]), "nothing to pull back"
    assert all(torch.equal(before[n], after[n]) for n in before), "a skipped step moved weights"


def test_averages_and_checkpoints_hold_what_the_hook_makes_of_the_step(pretrained: str, tmp_path: Any) -> None:
    class Projected(PlainSFT):
        def after_step(self, optimizer: Optimizer) -> None:
            assert self.network is not None
            self.network.head.weight.fill_(float(self.trainer.global_step + 1))

    class Saves(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    module = Projected(pretrained_mlp(pretrained), ema_decay=0.5, ema_warmup=False)
    fit(module, digits(), max_steps=2, callbacks=[Saves()], limit_val_batches=0)
    raw = [torch.load(tmp_path / f"{n}.ckpt", weights_only=True)["raw_weights"]["head.weight"] for n in (1, 2)]
    assert [float(w.mean()) for w in raw] == [1.0, 2.0]
    before = torch.load(tmp_path / "2.ckpt", weights_only=True)["state_dict"]["network.head.weight"]
    torch.testing.assert_close(weights(module)["head.weight"], before * 0.5 + 1.0)


class Unscaling(torch.optim.AdamW):
    """Somebody's own optimizer, whose step unscales gradients."""

    def __init__(self, params: Any, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, fused=True)


def test_an_optimizer_that_unscales_inside_its_step_is_refused_where_something_would_come_too_late(
    pretrained: str,
) -> None:
    def trained(cls: type[SFTModule], **settings: Any) -> Trainer:
        module = cls(pretrained_mlp(pretrained), optimizer=f"{__name__}.Unscaling")
        return fit(module, digits(), max_steps=2, plugins=[Scaled()], **settings)

    with refused("model.optimizer", "Unscaling", "L2SPSFT", "bf16-mixed"):
        trained(L2SPSFT)
    with refused("trainer.gradient_clip_val", "Unscaling", "16-mixed"):
        trained(PlainSFT, gradient_clip_val=1.0)
    assert trained(PlainSFT).global_step == 2


@pytest.mark.parametrize("given", [False, True], ids=["gradients are there", "a closure computes them"])
def test_hooks_work_without_a_trainer(given: bool) -> None:
    weight, calls = torch.nn.Parameter(torch.ones(2)), []
    optimizer = torch.optim.SGD([weight], lr=1.0)
    around_steps(optimizer, lambda o: calls.append(weight.grad.clone()), lambda o: calls.append(weight.clone()))

    def closure() -> Tensor:
        weight.grad = None
        loss = (weight * torch.tensor([1.0, 2.0])).sum()
        loss.backward()
        return loss

    loss = optimizer.step(closure) if given else (closure(), optimizer.step())[0]
    assert float(loss.detach()) == 3.0
    assert [c.tolist() for c in calls] == [[1.0, 2.0], [0.0, -1.0]]


def test_a_step_that_computes_gradients_several_times_is_one_step() -> None:
    weight, calls = torch.nn.Parameter(torch.ones(2)), []
    optimizer = torch.optim.LBFGS([weight], max_iter=4)
    around_steps(optimizer, lambda o: calls.append("before"), lambda o: calls.append("after"))

    def closure() -> Tensor:
        calls.append("closure")
        optimizer.zero_grad()
        loss = (weight**4).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls.count("closure") > 1 and [c for c in calls if c != "closure"] == ["before", "after"]


def test_batches_without_items_still_are_steps(pretrained: str) -> None:
    """The hooks are called by the optimizer, not by the items of a step."""

    class Empty(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, *_: Any) -> None:
            batch["real"] = torch.zeros(len(batch["index"]), dtype=torch.bool)
            batch["y"], batch["count"] = batch["y"][:0], 0

    module = Watched(pretrained_mlp(pretrained))
    fit(module, digits(), max_steps=2, callbacks=[Empty()], limit_val_batches=0)
    assert len(module.calls) == 4
