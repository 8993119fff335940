"""L2SPSFT through Lightning's Trainer against autograd on the penalty as it stands in the paper."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from sft_lightning.modules import L2SPSFT, PlainSFT
from sft_lightning.networks import spec
from tests.support import (
    NormNet,
    Recorder,
    assert_same_training,
    cross_entropy,
    digits,
    fit,
    mlp,
    pretrained_mlp,
    train_plainly,
    weights,
)

MATRICES = ["encoder.1.weight", "encoder.4.weight"]
BIASES = ["encoder.1.bias", "encoder.4.bias"]
PENALISED = {"weights": (MATRICES, ["head.weight"]), "all": (MATRICES + BIASES, ["head.weight", "head.bias"])}


def sgd(parameters: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (1, 0.5), (4, 0.5)])
@pytest.mark.parametrize("penalise", PENALISED)
def test_penalty_in_the_loss_equals_plain_pytorch(
    pretrained: str, penalise: str, accumulate: int, clip: float | None
) -> None:
    """The reference clips the gradient of the whole loss, so a penalty written after the clip would be seen."""
    recorder = Recorder()
    module = L2SPSFT(
        pretrained_mlp(pretrained),
        alpha=2.0,
        beta=0.3,
        penalise=penalise,
        optimizer="SGD",
        lr=0.05,
        optimizer_args={"momentum": 0.9},
    )
    fit(
        module,
        digits(),
        max_steps=4,
        precision="64-true",
        callbacks=[recorder],
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
    )
    shared, new = PENALISED[penalise]

    def loss(w: dict[str, Tensor], image: Tensor, y: Tensor) -> Tensor:
        pull = sum(((w[n] - recorder.start[n]) ** 2).sum() for n in shared)
        return cross_entropy(mlp(w, image).logits, y) + 2.0 / 2 * pull + 0.3 / 2 * sum((w[n] ** 2).sum() for n in new)

    steps = train_plainly(recorder, loss, sgd, accumulate, clip)
    assert_same_training(recorder, steps, accumulate)


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (4, 0.5)])
@pytest.mark.parametrize("penalise", PENALISED)
def test_decoupled_pull_equals_plain_pytorch(
    pretrained: str, penalise: str, accumulate: int, clip: float | None
) -> None:
    recorder = Recorder()
    module = L2SPSFT(pretrained_mlp(pretrained), how="decoupled", decoupled_weight=4.0, penalise=penalise, lr=0.02)
    fit(
        module,
        digits(),
        max_steps=4,
        precision="64-true",
        callbacks=[recorder],
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
    )

    @torch.no_grad()
    def pull(w: dict[str, Tensor]) -> None:
        for n in PENALISED[penalise][0]:
            w[n] -= 0.02 * 4.0 * (w[n] - recorder.start[n])

    def loss(w: dict[str, Tensor], image: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(mlp(w, image).logits, y)

    adamw = partial(torch.optim.AdamW, lr=0.02, weight_decay=0.0)
    assert_same_training(recorder, train_plainly(recorder, loss, adamw, accumulate, clip, pull), accumulate)


def test_decoupled_pull_follows_the_schedule_and_each_groups_rate(pretrained: str) -> None:
    recorder = Recorder()
    settings: dict[str, Any] = {"lr": 0.02, "layer_decay": 0.5, "lr_schedule": "linear"}
    module = L2SPSFT(pretrained_mlp(pretrained), how="decoupled", decoupled_weight=4.0, **settings)
    fit(module, digits(), max_steps=4, precision="64-true", callbacks=[recorder])
    rates = {"encoder.1.weight": 0.01, "encoder.1.bias": 0.01}
    step = iter(range(4))
    stepper: list[torch.optim.Optimizer] = []

    def adamw(parameters: list[Tensor]) -> torch.optim.Optimizer:
        names = [n for n in recorder.start if not n.startswith("source_head")]
        groups = [{"params": [p], "lr": rates.get(n, 0.02)} for n, p in zip(names, parameters, strict=True)]
        stepper.append(torch.optim.AdamW(groups, weight_decay=0.0))
        return stepper[0]

    @torch.no_grad()
    def pull(w: dict[str, Tensor]) -> None:
        factor = 1 - next(step) / 4
        for group, n in zip(stepper[0].param_groups, w, strict=True):
            group["lr"] = rates.get(n, 0.02) * factor
            if n in MATRICES:
                w[n] -= group["lr"] * 4.0 * (w[n] - recorder.start[n])

    steps = train_plainly(recorder, lambda w, x, y: cross_entropy(mlp(w, x).logits, y), adamw, before_step=pull)
    assert_same_training(recorder, steps)


def test_decoupled_pull_to_an_origin_at_zero_is_adamws_weight_decay(pretrained: str) -> None:
    """With w⁰ = 0, λ is AdamW's weight decay on the same tensors."""

    class Pulled(L2SPSFT):
        def on_train_start(self) -> None:
            super().on_train_start()
            for start in self.teacher.initial.values():
                start.zero_()

    class Decayed(PlainSFT):
        def no_decay_names(self) -> set[str]:
            return {"head.weight"}

    ours = Pulled(pretrained_mlp(pretrained), how="decoupled", decoupled_weight=0.5, lr=0.02)
    theirs = Decayed(pretrained_mlp(pretrained), lr=0.02, weight_decay=0.5)
    for module in (ours, theirs):
        fit(module, digits(), max_steps=5, precision="64-true")
    expected = weights(theirs)
    for name, value in weights(ours).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_weights_spares_biases_and_norm_layers_and_all_takes_everything(pretrained_norms: str) -> None:
    matrices, others = {"encoder.1.weight", "encoder.5.weight"}, {"encoder.1.bias", "encoder.5.bias"}
    norms = {f"encoder.{i}.{kind}" for i in (2, 6) for kind in ("weight", "bias")}
    for penalise, shared, new in (
        ("weights", matrices, {"head.weight"}),
        ("all", matrices | others | norms, {"head.weight", "head.bias"}),
    ):
        module = L2SPSFT(spec(NormNet, pretrained=pretrained_norms), penalise=penalise)
        fit(module, digits(), max_steps=1)
        assert set(module.anchored()) == shared, f"penalise: {penalise} anchors other tensors"
        assert set(module.new()) == new, f"penalise: {penalise} pulls other new tensors to zero"


def test_beta_acts_on_the_new_head_alone(pretrained: str) -> None:
    runs = {}
    for beta in (0.0, 1.0):
        recorder = Recorder()
        module = L2SPSFT(pretrained_mlp(pretrained), alpha=0.0, beta=beta, optimizer="SGD", lr=0.1)
        fit(module, digits(), max_steps=1, precision="64-true", callbacks=[recorder])
        runs[beta] = recorder
    start = runs[0.0].start
    for name, gradient in runs[1.0].grads[0].items():
        more = gradient - runs[0.0].grads[0][name]
        expected = start[name] if name == "head.weight" else torch.zeros_like(more)
        torch.testing.assert_close(more, expected, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_logged_anchor_is_the_penalty(pretrained: str) -> None:
    recorder = Recorder()
    module = L2SPSFT(pretrained_mlp(pretrained), alpha=2.0, beta=0.3, lr=0.02)
    fit(module, digits(), max_steps=3, precision="64-true", callbacks=[recorder])
    w, start = recorder.weights[1], recorder.start
    expected = sum(float(((w[n] - start[n]) ** 2).sum()) for n in MATRICES) + 0.15 * float(
        (w["head.weight"] ** 2).sum()
    )
    assert recorder.logged[2]["train/loss_anchor"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "decayed"),
    [
        ({"alpha": 0.1, "beta": 0.01}, set()),
        ({"alpha": 0.1, "beta": 0.0}, {"head.weight"}),
        ({"alpha": 0.0, "beta": 0.01}, set(MATRICES)),
        ({"alpha": 0.0, "beta": 0.0}, {*MATRICES, "head.weight"}),
        ({"how": "decoupled"}, {"head.weight"}),
        ({"how": "decoupled", "decoupled_weight": 0.0}, {*MATRICES, "head.weight"}),
    ],
)
def test_weight_decay_spares_what_is_anchored(pretrained: str, settings: dict[str, Any], decayed: set[str]) -> None:
    module = L2SPSFT(pretrained_mlp(pretrained), weight_decay=0.3, **settings)
    trainer = fit(module, digits(), max_steps=1)
    found = {n for g in trainer.optimizers[0].param_groups if g["weight_decay"] for n in g["names"]}
    assert found == decayed, f"with {settings} the optimizer decays {found}"
    assert {g["weight_decay"] for g in trainer.optimizers[0].param_groups} <= {0.0, 0.3}
