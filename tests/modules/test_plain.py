"""PlainSFT through Lightning's Trainer against the same training in plain PyTorch."""

from functools import partial

import pytest
import torch
import torch.nn as nn
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sft_lightning.modules import L2SPSFT, DistillSFT, PlainSFT
from tests.refused import refused
from tests.support import (
    Recorder,
    assert_same_training,
    cross_entropy,
    digits,
    fit,
    make,
    mlp,
    pretrained_mlp,
    quiet_trainer,
    train_plainly,
    weights,
)


def loss(w: dict[str, Tensor], image: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(mlp(w, image).logits, y)


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (1, 0.5), (4, None), (4, 0.5)])
def test_training_equals_plain_pytorch(pretrained: str, accumulate: int, clip: float | None) -> None:
    recorder = Recorder()
    module = make("plain", pretrained, optimizer="SGD", lr=0.1, optimizer_args={"momentum": 0.9})
    fit(
        module,
        digits(),
        max_steps=4,
        precision="64-true",
        callbacks=[recorder],
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
    )
    steps = train_plainly(recorder, loss, partial(torch.optim.SGD, lr=0.1, momentum=0.9), accumulate, clip)
    assert_same_training(recorder, steps, accumulate)
    if clip is not None:
        norm = sum(float(g.square().sum()) for g in steps[0][0].values()) ** 0.5
        assert norm == pytest.approx(clip, rel=1e-4), "nothing was clipped, so the order of clipping is not tested"


def test_training_with_adamw_weight_decay_equals_plain_pytorch(pretrained: str) -> None:
    recorder = Recorder()
    module = make("plain", pretrained, lr=0.01, weight_decay=0.3)
    fit(module, digits(), max_steps=4, precision="64-true", callbacks=[recorder])

    def adamw(parameters: list[Tensor]) -> torch.optim.Optimizer:
        matrices, biases = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
        return torch.optim.AdamW(
            [{"params": matrices}, {"params": biases, "weight_decay": 0.0}], 0.01, weight_decay=0.3
        )

    assert_same_training(recorder, train_plainly(recorder, loss, adamw))


def test_logged_loss_is_the_mean_over_the_whole_optimizer_step(pretrained: str) -> None:
    recorder = Recorder()
    fit(
        make("plain", pretrained),
        digits(),
        max_steps=2,
        precision="64-true",
        accumulate_grad_batches=4,
        callbacks=[recorder],
    )
    window = recorder.batches[:4]
    image, y = torch.cat([b["x"]["image"] for b in window]), torch.cat([b["y"] for b in window])
    expected = float(loss(recorder.start, image, y))
    logged = recorder.logged[3]
    assert logged["train/loss"] == logged["train/loss_task"] == pytest.approx(expected, rel=1e-5)
    assert logged["train/loss_anchor"] == 0.0 and logged["train/items"] == 16


def test_label_smoothing_is_in_the_loss(pretrained: str) -> None:
    recorder = Recorder()
    fit(
        make("plain", pretrained, label_smoothing=0.2, optimizer="SGD", lr=0.1),
        digits(),
        max_steps=2,
        precision="64-true",
        callbacks=[recorder],
    )

    def smoothed(w: dict[str, Tensor], image: Tensor, y: Tensor) -> Tensor:
        logits = mlp(w, image).logits
        log_p = logits - logits.exp().sum(1, keepdim=True).log()
        target = torch.full_like(log_p, 0.2 / 5)
        target[torch.arange(len(y)), y] += 0.8
        return -(target * log_p).sum() / len(y)

    assert_same_training(recorder, train_plainly(recorder, smoothed, partial(torch.optim.SGD, lr=0.1)))


@pytest.mark.one_in(4)
@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("variant", ["plain", "distill-logits-kl", "l2sp-loss"])
def test_every_precision_trains(pretrained: str, variant: str, precision: str) -> None:
    module = make(variant, pretrained, lr=1e-2)
    trainer = fit(module, digits(), max_epochs=2, precision=precision)
    assert trainer.callback_metrics["val/accuracy"] > 0.6, f"{variant} in {precision} does not learn"


def test_same_seed_same_bits_and_another_seed_another_head(pretrained: str) -> None:
    runs = []
    for seed in (0, 0, 1):
        module = make("plain", pretrained)
        fit(module, digits(), seed=seed, max_steps=3)
        runs.append(weights(module))
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0]), "two runs of one seed differ"
    assert not torch.equal(runs[0]["head.weight"], runs[2]["head.weight"]), "the seed does not reach the new head"


class ZeroDropoutSpy(Callback):
    """Is everything but the source head in train mode at each training batch?"""

    def __init__(self) -> None:
        self.modes: list[bool] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self.modes += [m.training for m in pl_module.network.encoder.modules() if isinstance(m, nn.Dropout)]


def test_dropout_is_on_in_every_training_batch_also_after_validation(pretrained: str) -> None:
    spy = ZeroDropoutSpy()
    module = make("plain", pretrained, network={"dropout": 0.1})
    fit(module, digits(shots_per_class=10), max_epochs=2, callbacks=[spy], num_sanity_val_steps=1)
    assert spy.modes and all(spy.modes)


def test_a_batch_that_yields_nan_shows_in_the_validation_loss(pretrained: str) -> None:
    module = make("plain", pretrained)
    trainer = fit(module, digits(), max_steps=1)

    class Poison(Callback):
        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):  # type: ignore[no-untyped-def]
            if batch_idx == 1:
                batch["x"]["image"].fill_(float("nan"))

    trainer = quiet_trainer(callbacks=[Poison()])
    (values,) = trainer.validate(module, digits(), verbose=False)
    assert values["val/loss"] != values["val/loss"], f"a NaN batch was left out: val/loss is {values['val/loss']}"


@pytest.mark.parametrize(
    ("build", "key", "values"),
    [
        (lambda n: PlainSFT(n, lr=-1.0), "lr", ["-1.0"]),
        (lambda n: PlainSFT(n, lr_schedule="linaer"), "lr_schedule", ["'linaer'", "did you mean 'linear'"]),
        (lambda n: PlainSFT(n, ema_decay=1.0), "ema_decay", ["[0, 1)", "1.0"]),
        (lambda n: PlainSFT(n, ema_warmup=False), "ema_warmup", ["false", "model.init_args.ema_decay"]),
        (lambda n: PlainSFT(n, label_smoothing=1.0), "label_smoothing", ["[0, 1)", "1.0"]),
        (lambda n: DistillSFT(n, anchor_weight=-1.0), "anchor_weight", ["-1.0"]),
        (lambda n: DistillSFT(n, temperature=0.0), "temperature", ["above 0", "0.0"]),
        (lambda n: DistillSFT(n, distance="kll"), "distance", ["'kll'", "did you mean 'kl'"]),
        (lambda n: DistillSFT(n, on="feature"), "on", ["'feature'", "did you mean 'features'"]),
        (lambda n: L2SPSFT(n, how="decopled"), "how", ["'decopled'", "did you mean 'decoupled'"]),
        (lambda n: L2SPSFT(n, penalise="weight"), "penalise", ["'weight'", "did you mean 'weights'"]),
        (lambda n: L2SPSFT(n, alpha=-0.1), "alpha", ["-0.1"]),
        (lambda n: L2SPSFT(n, decoupled_weight=1.0), "decoupled_weight", ["how: loss", "how: decoupled"]),
        (lambda n: L2SPSFT(n, how="decoupled", alpha=0.1), "alpha", ["how: decoupled", "decoupled_weight"]),
        (lambda n: L2SPSFT(n, how="decoupled", beta=0.1), "beta", ["how: decoupled", "decoupled_weight"]),
    ],
)
def test_a_wrong_argument_is_refused_with_a_remedy(build, key: str, values: list[str]) -> None:  # type: ignore[no-untyped-def]
    with refused(f"model.{key}", *values):
        build(pretrained_mlp(None))


def test_a_schedule_without_an_end_is_refused_and_a_constant_rate_needs_none(pretrained: str) -> None:
    endless = {"max_epochs": -1, "max_time": {"seconds": 0}}
    fit(make("plain", pretrained), digits(shots_per_class=4), **endless)
    for setting, value in (("lr_schedule", "cosine"), ("warmup", 2)):
        with refused(f"model.{setting}", "trainer.max_epochs", "trainer.max_steps"):
            fit(make("plain", pretrained, **{setting: value}), digits(shots_per_class=4), **endless)
