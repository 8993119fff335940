"""What holds for every variant: it is PlainSFT at weight 0, its anchor is 0 at the start, and its teacher stands still."""

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file, save_file

from sft_lightning.modules import EWCSFT, L2SPSFT, DistillSFT, PlainSFT, SFTModule
from sft_lightning.networks import spec
from tests.support import VARIANTS, NormNet, Recorder, digits, fit, make, pretrained_mlp, weights

WEIGHT_ZERO: dict[str, tuple[type[SFTModule], dict[str, Any]]] = {
    "distill source_logits mse": (DistillSFT, {"anchor_weight": 0.0}),
    "distill source_logits kl": (DistillSFT, {"anchor_weight": 0.0, "distance": "kl"}),
    "distill features cosine": (DistillSFT, {"anchor_weight": 0.0, "on": "features", "distance": "cosine"}),
    "ewc": (EWCSFT, {"anchor_weight": 0.0}),
    "l2sp loss weights": (L2SPSFT, {"alpha": 0.0, "beta": 0.0}),
    "l2sp loss all": (L2SPSFT, {"alpha": 0.0, "beta": 0.0, "penalise": "all"}),
    "l2sp decoupled weights": (L2SPSFT, {"how": "decoupled", "decoupled_weight": 0.0}),
    "l2sp decoupled all": (L2SPSFT, {"how": "decoupled", "decoupled_weight": 0.0, "penalise": "all"}),
}


def at_zero(cls: type[SFTModule]) -> dict[str, Any]:
    """The variant's anchor settings that are numbers by default, at 0."""
    defaults = {n: p.default for n, p in signature(cls).parameters.items()}
    return {n: 0.0 for n in cls.anchor_settings if type(defaults.get(n)) is float}


WEIGHT_ZERO |= {
    name: (cls, at_zero(cls))
    for name, (cls, _) in VARIANTS.items()
    if cls.anchor_settings and cls not in {c for c, _ in WEIGHT_ZERO.values()}
}
"""A registered variant that is not listed above is tried with its strengths at 0."""
TRAINING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "everything on": (
        {
            "weight_decay": 0.1,
            "lr_schedule": "cosine",
            "warmup": 0.2,
            "head_lr_factor": 10.0,
            "layer_decay": 0.5,
            "label_smoothing": 0.1,
            "ema_decay": 0.9,
        },
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
    ),
    "momentum and freezing": (
        {
            "optimizer": "SGD",
            "lr": 0.1,
            "weight_decay": 0.01,
            "optimizer_args": {"momentum": 0.9},
            "freeze": {"bottom_layers": 1},
            "freeze_batchnorm_stats": True,
        },
        {"accumulate_grad_batches": 4},
    ),
}


@pytest.fixture(scope="module")
def plain_results(pretrained_norms: str) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for name, (settings, trainer) in TRAINING.items():
        module = PlainSFT(spec(NormNet, pretrained=pretrained_norms, dropout=0.2), **settings)
        fit(module, digits(shots_per_class=10), max_epochs=2, **trainer)
        found[name] = weights(module)
    return found


@pytest.mark.parametrize("training", TRAINING)
@pytest.mark.parametrize("variant", WEIGHT_ZERO)
def test_at_weight_zero_every_variant_is_plain_sft_bit_for_bit(
    pretrained_norms: str, plain_results: dict[str, Any], variant: str, training: str
) -> None:
    cls, arguments = WEIGHT_ZERO[variant]
    settings, trainer = TRAINING[training]
    module = cls(spec(NormNet, pretrained=pretrained_norms, dropout=0.2), **arguments, **settings)
    fit(module, digits(shots_per_class=10), max_epochs=2, **trainer)
    different = [n for n, v in weights(module).items() if not torch.equal(v, plain_results[training][n])]
    assert not different, f"{variant} at weight 0 differs from PlainSFT in {different}"


ANCHORED = [v for v in VARIANTS if v != "plain"]


def without_beta(variant: str) -> dict[str, Any]:
    return {"beta": 0.0} if "beta" in VARIANTS[variant][1] else {}  # the new head is never at 0


@pytest.mark.parametrize("variant", ANCHORED)
def test_the_anchor_is_exactly_zero_at_the_first_step_and_positive_afterwards(pretrained: str, variant: str) -> None:
    recorder = Recorder()
    fit(make(variant, pretrained, **without_beta(variant)), digits(), max_steps=4, callbacks=[recorder])
    anchors = [logged["train/loss_anchor"] for logged in recorder.logged]
    assert anchors[0] == 0.0, f"{variant}: the anchor is {anchors[0]} before anything has moved"
    assert min(anchors[1:]) > 0.0, f"{variant}: the anchor is not connected: {anchors}"


@pytest.mark.parametrize("variant", [v for v in ANCHORED if "kl" not in v])
def test_the_anchor_leaves_the_first_gradient_alone(pretrained: str, variant: str) -> None:
    """At the start its gradient is 0, so the first step is PlainSFT's. (For kl up to rounding: Σ p = 1.)"""
    recorders = Recorder(), Recorder()
    fit(make(variant, pretrained, **without_beta(variant)), digits(), max_steps=1, callbacks=[recorders[0]])
    fit(make("plain", pretrained), digits(), max_steps=1, callbacks=[recorders[1]])
    for name, gradient in recorders[1].grads[0].items():
        assert torch.equal(recorders[0].grads[0][name], gradient), f"{variant} changes the first gradient of {name}"


@pytest.mark.parametrize("variant", [v for v in ANCHORED if "distill" in v])
def test_with_batchnorm_the_anchor_starts_at_zero_if_its_statistics_stand_still(
    pretrained_norms: str, variant: str
) -> None:
    cls, arguments = VARIANTS[variant]
    recorder = Recorder()
    module = cls(spec(NormNet, pretrained=pretrained_norms), freeze_batchnorm_stats=True, **arguments)
    fit(module, digits(), max_steps=3, callbacks=[recorder])
    assert recorder.logged[0]["train/loss_anchor"] == 0.0
    assert recorder.logged[2]["train/loss_anchor"] > 0.0


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("gauge", "strengths"),
    [
        ("drift/weights_l2", [{"alpha": a, "beta": 0.0} for a in (0.0, 0.1, 1.0, 10.0)]),
        ("drift/weights_l2", [{"how": "decoupled", "decoupled_weight": w} for w in (0.0, 3.0, 30.0, 150.0)]),
        ("drift/weights_l2", [{"anchor_weight": w, "fisher": "true"} for w in (0.0, 1e3, 1e4, 1e5)]),
        ("drift/kl", [{"anchor_weight": w, "fisher": "true"} for w in (0.0, 1e2, 1e3, 1e4)]),
        ("drift/kl", [{"anchor_weight": w} for w in (0.0, 0.01, 0.1, 1.0)]),
        ("drift/kl", [{"anchor_weight": w, "distance": "kl"} for w in (0.0, 0.3, 3.0, 30.0)]),
        ("drift/kl", [{"anchor_weight": w, "on": "features"} for w in (0.0, 0.1, 1.0, 10.0)]),
    ],
    ids=["l2sp loss", "l2sp decoupled", "ewc weights", "ewc", "distill mse", "distill kl", "distill features"],
)
def test_drift_falls_as_the_anchor_gets_stronger(pretrained: str, gauge: str, strengths: list[dict[str, Any]]) -> None:
    drifts = []
    for arguments in strengths:
        cls = EWCSFT if "fisher" in arguments else DistillSFT if "anchor_weight" in arguments else L2SPSFT
        trainer = fit(cls(pretrained_mlp(pretrained), lr=5e-3, **arguments), digits(), max_epochs=1)
        drifts.append(float(trainer.callback_metrics[gauge]))
    assert drifts == sorted(drifts, reverse=True) and drifts[-1] < 0.5 * drifts[0], (
        f"{gauge} over {strengths}: {drifts}"
    )


class TeacherWatch(Callback):
    """What becomes of the teacher at each training batch."""

    def __init__(self) -> None:
        self.before: dict[str, torch.Tensor] = {}
        self.training = 0
        self.batches = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = {n: v.clone() for n, v in pl_module.teacher.network.state_dict().items()}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        pl_module.train()
        self.training += sum(m.training for m in pl_module.teacher.network.modules())
        self.batches += 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_teacher_stands_apart_and_stands_still(pretrained_norms: str, variant: str) -> None:
    cls, arguments = VARIANTS[variant]
    watch = TeacherWatch()
    module = cls(spec(NormNet, pretrained=pretrained_norms, dropout=0.3), lr=1e-2, **arguments)
    trainer = fit(module, digits(), max_epochs=1, num_sanity_val_steps=1, callbacks=[watch])
    teacher = module.teacher.network
    assert watch.batches > 3 and watch.training == 0, "some module of the teacher was in train mode during training"
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, watch.before[name]), f"the teacher's {name} moved"
    student = weights(module)
    assert not torch.equal(student["encoder.1.weight"], watch.before["encoder.1.weight"]), "the student did not move"
    assert not torch.equal(student["encoder.2.running_mean"], watch.before["encoder.2.running_mean"])

    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters()), "the teacher got a gradient"
    memory = {t.data_ptr() for t in teacher.state_dict().values() if t.numel()}
    assert not memory & {t.data_ptr() for t in module.state_dict().values() if t.numel()}, (
        "teacher and student share memory"
    )
    theirs = {id(t) for t in (*teacher.parameters(), *teacher.buffers())}
    assert not theirs & {id(t) for t in (*module.parameters(), *module.buffers())}
    assert not theirs & {id(p) for g in trainer.optimizers[0].param_groups for p in g["params"]}
    assert set(module.state_dict()) == {f"network.{n}" for n in module.network.state_dict()}, (
        "more than the student is kept"
    )


def test_the_teachers_hash_is_that_of_its_weights(pretrained: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    module, again = make("l2sp-loss", pretrained), make("distill-logits-kl", pretrained)
    fit(module, digits(), max_steps=3)
    fit(again, digits(), seed=7, max_steps=1)
    assert module.teacher.hash == again.teacher.hash, "one pretrained network, two hashes"
    state, config = load_file(f"{pretrained}/model.safetensors"), f"{pretrained}/config.json"
    hashes = {module.teacher.hash}
    for name in ("encoder.4.bias", "head.weight"):
        changed = {n: v.clone() for n, v in state.items()}
        changed[name].view(-1)[0] = torch.nextafter(changed[name].view(-1)[0], torch.tensor(9.0))
        save_file(changed, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(Path(config).read_text())
        other = make("plain", str(tmp_path))
        fit(other, digits(), max_steps=1)
        hashes.add(other.teacher.hash)
    assert len(hashes) == 3, "a changed bit in the pretrained encoder or head does not change the hash"


def test_the_strengths_of_a_new_variant_are_found() -> None:
    assert at_zero(EWCSFT) == {"anchor_weight": 0.0}, "fisher and fisher_samples are no strengths"
