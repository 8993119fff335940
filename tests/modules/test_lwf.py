"""Learning without Forgetting as published (Li and Hoiem 2016): old head trained, new head warmed up, strength 1 without T²."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.modules import L2SPSFT, DistillSFT, PlainSFT
from sft_lightning.networks import spec
from tests.refused import refused
from tests.support import (
    OLD,
    NormNet,
    Recorder,
    cross_entropy,
    digits,
    fit,
    make,
    mlp,
    moved,
    outputs_on,
    pretrained_mlp,
    weights,
)

SGD: dict[str, Any] = {"optimizer": "SGD", "optimizer_args": {"momentum": 0.9}, "lr": 0.05}
LWF: dict[str, Any] = {
    "on": "source_logits",
    "distance": "kl",
    "temperature": 2.0,
    "anchor_weight": 0.25,
    "train_source_head": True,
    "head_warmup": 2,
    **SGD,
}
WARM, STEPS = 2, 5


def recorded(outputs: Tensor) -> Tensor:
    """y'_o: probabilities to the power 1/T, renormalised, with T = 2 (eq. 3 and 4)."""
    p = outputs.softmax(1).sqrt()
    return p / p.sum(1, keepdim=True)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_training_equals_the_published_method_in_plain_torch(pretrained: str, accumulate: int) -> None:
    recorder = Recorder()
    module = DistillSFT(pretrained_mlp(pretrained), **LWF)
    fit(
        module,
        digits(),
        max_steps=STEPS,
        precision="64-true",
        accumulate_grad_batches=accumulate,
        callbacks=[recorder],
    )
    w = {n: v.clone().requires_grad_() for n, v in recorder.start.items()}
    new, old = ["head.weight", "head.bias"], [n for n in w if not n.startswith("head.")]
    optimizer = torch.optim.SGD(w.values(), lr=0.05, momentum=0.9)
    for step in range(STEPS):
        window = recorder.batches[step * accumulate : (step + 1) * accumulate]
        image, y = torch.cat([b["x"]["image"] for b in window]), torch.cat([b["y"] for b in window])
        optimizer.zero_grad()
        says, said = mlp(w, image), mlp(recorder.start, image)
        assert says.source_logits is not None and said.source_logits is not None
        kept = -(recorded(said.source_logits) * recorded(says.source_logits).log()).sum(1).mean()
        (cross_entropy(says.logits, y) + 1.0 * kept).backward()
        if step < WARM:
            for name in old:
                w[name].grad = None
        optimizer.step()
        at = (step + 1) * accumulate - 1
        found = recorder.grads[at]
        assert set(found) == set(new if step < WARM else w), f"step {step + 1}: other tensors have a gradient"
        for name, gradient in found.items():
            expected = w[name].grad
            assert expected is not None
            error = float((gradient - expected).norm()) / max(float(expected.norm()), 1e-6)
            assert error < 1e-8, f"step {step + 1}: the gradient of {name} is off by {error:.1e} of its length"
        assert moved(recorder.weights[at], {n: v.detach() for n, v in w.items()}) < 1e-9
    assert module.fidelity == "paper-exact"
    last, start = recorder.weights[-1], recorder.start
    assert not torch.equal(last["source_head.weight"], start["source_head.weight"]), "the old head was not trained"
    teacher = module.teacher.network.state_dict()  # type: ignore[union-attr]
    assert torch.equal(teacher["source_head.weight"], start["source_head.weight"]), "the teacher's head was trained too"


def test_head_warmup_is_a_run_with_all_but_the_head_frozen_to_the_bit(pretrained_norms: str) -> None:
    """With dropout and BatchNorm: what is held still sees neither."""
    recorders = Recorder(), Recorder()
    network = spec(NormNet, pretrained=pretrained_norms, dropout=0.3)
    fit(PlainSFT(network, head_warmup=3), digits(), max_steps=5, callbacks=[recorders[0]])
    fit(PlainSFT(network, freeze="all-but-head"), digits(), max_steps=3, callbacks=[recorders[1]])
    warm, frozen = (r.weights[2] for r in recorders)
    different = [n for n, v in frozen.items() if not torch.equal(v, warm[n])]
    assert not different, f"after the warm-up {different} are not as if frozen"
    moved_on = [n for n, v in recorders[0].weights[-1].items() if not torch.equal(v, warm[n])]
    assert {n for n in warm if "source_head" not in n} == set(moved_on), "something stood still after the warm-up"


def test_validation_within_the_warmup_changes_nothing(pretrained_norms: str) -> None:
    runs = []
    for interval in (1.0, 1):
        recorder = Recorder()
        module = PlainSFT(spec(NormNet, pretrained=pretrained_norms, dropout=0.3), head_warmup=3)
        fit(module, digits(), max_steps=5, val_check_interval=interval, callbacks=[recorder])
        runs.append(recorder.weights)
    assert moved(runs[0][-1], runs[1][-1]) == 0.0


@pytest.mark.parametrize("stop", [1, 3], ids=["within the warm-up", "after it"])
def test_a_resumed_run_equals_an_uninterrupted_one_with_the_trained_old_head(
    pretrained: str, tmp_path: Path, stop: int
) -> None:
    def source() -> RetentionMonitor:
        return RetentionMonitor(digits(OLD))

    whole = DistillSFT(pretrained_mlp(pretrained), **LWF, ema_decay=0.9)
    keep = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=1, filename="{step}")
    fit(whole, digits(), max_steps=5, callbacks=[keep, source()], enable_checkpointing=True, default_root_dir=tmp_path)
    resumed = DistillSFT(pretrained_mlp(pretrained), **LWF, ema_decay=0.9)
    path = str(tmp_path / f"step={stop}.ckpt")
    trainer = fit(resumed, digits(), seed=9, max_steps=5, ckpt_path=path, callbacks=[source()])
    different = [n for n, v in weights(whole).items() if not torch.equal(v, weights(resumed)[n])]
    assert not different, f"a resumed run differs in {different}"
    assert resumed.teacher is not None and whole.teacher is not None
    trainer.validate(resumed, digits(), verbose=False)
    output, y = outputs_on(resumed.network, digits_set(), "val")
    assert output.source_logits is not None
    accuracy = float((output.source_logits.argmax(1) == y).double().mean())
    assert float(trainer.callback_metrics["retention/accuracy"]) == pytest.approx(accuracy, abs=1e-6), (
        "retention is not that of the trained old head"
    )


def digits_set() -> Any:
    data = digits(OLD)
    data.setup("fit")
    return data


def test_fidelity_is_paper_exact_only_where_all_of_the_paper_is_there(pretrained: str) -> None:
    network = pretrained_mlp(pretrained)
    others: list[dict[str, Any]] = [
        {"anchor_weight": 1.0},
        {"temperature": 1.0, "anchor_weight": 1.0},
        {"head_warmup": 0.0},
        {"optimizer": "AdamW", "optimizer_args": None},
        {"optimizer_args": None},
        {"label_smoothing": 0.1},
    ]
    assert DistillSFT(network, **LWF).fidelity == "paper-exact"
    for other in ({"freeze": {"bottom_layers": 1}}, {"ema_decay": 0.9}, {"layer_decay": 0.5}):
        assert DistillSFT(network, **LWF, **other).fidelity == "reference-code", other
        assert L2SPSFT(network, **SGD, **other).fidelity == "safe default", other
    for other in others:
        assert DistillSFT(network, **{**LWF, **other}).fidelity == "reference-code", other
    for other in ({"train_source_head": False}, {"distance": "mse"}, {"anchor_weight": 0.0}):
        assert DistillSFT(network, **{**LWF, **other}).fidelity == "safe default", other
    assert L2SPSFT(network, **SGD).fidelity == "paper-exact"
    assert L2SPSFT(network, penalise="all", **SGD).fidelity == "reference-code"
    assert L2SPSFT(network, how="decoupled", **SGD).fidelity == "safe default"
    assert L2SPSFT(network).fidelity == L2SPSFT(network, optimizer="SGD").fidelity == "safe default"


def test_at_weight_zero_the_old_head_is_not_trained(pretrained: str) -> None:
    one = DistillSFT(pretrained_mlp(pretrained), **{**LWF, "anchor_weight": 0.0}, weight_decay=0.1)
    other = make("plain", pretrained, **SGD, head_warmup=2, weight_decay=0.1)
    for module in (one, other):
        fit(module, digits(), max_steps=4)
    assert moved(weights(one), weights(other)) == 0.0


@pytest.mark.parametrize(
    ("settings", "network", "key", "values"),
    [
        (
            {"train_source_head": True, "on": "features"},
            {},
            "model.train_source_head",
            ["on: features", "on: source_logits"],
        ),
        (
            {"train_source_head": True},
            {"keep_source_head": False},
            "model.train_source_head",
            ["on: features", "on: source_logits"],
        ),
        (
            {"train_source_head": True, "freeze": "all-but-head"},
            {},
            "model.train_source_head",
            ["freeze: all-but-head"],
        ),
        ({"head_warmup": 2, "freeze": "all-but-head"}, {}, "model.head_warmup", ["model.freeze", "pretrained"]),
        ({"head_warmup": 2, "freeze": ["^head"]}, {}, "model.head_warmup", ["new layer"]),
        ({"head_warmup": 4}, {}, "model.head_warmup", ["4 steps", "run's 4"]),
        ({"head_warmup": -1}, {}, "model.head_warmup", ["-1"]),
    ],
)
def test_an_option_without_effect_is_refused(
    pretrained: str, settings: dict[str, Any], network: dict[str, Any], key: str, values: list[str]
) -> None:
    with refused(key, *values):
        fit(DistillSFT(pretrained_mlp(pretrained, **network), **settings), digits(), max_steps=4)


def test_head_warmup_from_scratch_is_refused() -> None:
    with refused("model.head_warmup", "network.init_args.pretrained"):
        fit(PlainSFT(pretrained_mlp(None), head_warmup=2), digits(), max_steps=4)
