"""The start that anchors read in less memory: rounded to bfloat16 as a short reference does it, measured in full precision."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sft_lightning.ablation.plan import address
from sft_lightning.anchors import add_l2sp_gradient, pull_towards
from sft_lightning.callbacks.step_memory import StepMemory
from sft_lightning.modules import L2SPSFT, DistillSFT, SFTModule
from sft_lightning.modules.reference import ReferenceNetwork, ReferenceWeights
from tests.modules.test_l2sp import MATRICES, sgd
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
    train_plainly,
    weights,
)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LARGEST_ERROR = 2.0**-8
"""Of a value rounded to eight significant bits, over the value"""


def rounded(tensor: Tensor) -> Tensor:
    """To eight significant bits, half to even, written out: what bfloat16 keeps of numbers of usual size."""
    mantissa, exponent = torch.frexp(tensor.double())
    return torch.ldexp(torch.round(mantissa * 256) / 256, exponent)


@pytest.mark.parametrize("how", ["loss", "decoupled"])
def test_l2sp_pulls_towards_the_rounded_start(pretrained: str, how: str) -> None:
    recorder, strength = Recorder(), {"loss": {"alpha": 2.0, "beta": 0.0}, "decoupled": {"decoupled_weight": 4.0}}[how]
    settings: dict[str, Any] = {"optimizer": "SGD", "lr": 0.05, "optimizer_args": {"momentum": 0.9}}
    module = L2SPSFT(pretrained_mlp(pretrained), how=how, reference_dtype="bf16", **strength, **settings)
    fit(module, digits(), max_steps=4, precision="64-true", callbacks=[recorder])
    start = {n: rounded(recorder.start[n]) for n in MATRICES}

    def loss(w: dict[str, Tensor], image: Tensor, y: Tensor) -> Tensor:
        pull = sum(((w[n] - start[n]) ** 2).sum() for n in MATRICES) if how == "loss" else 0.0
        return cross_entropy(mlp(w, image).logits, y) + 2.0 / 2 * pull

    @torch.no_grad()
    def pull(w: dict[str, Tensor]) -> None:
        for n in MATRICES if how == "decoupled" else ():
            w[n] -= 0.05 * 4.0 * (w[n] - start[n])

    assert_same_training(recorder, train_plainly(recorder, loss, sgd, before_step=pull))
    penalty = (
        (2.0 if how == "loss" else 4.0) / 2 * sum(float((recorder.start[n] - start[n]).square().sum()) for n in start)
    )
    assert recorder.logged[0]["train/loss_anchor"] == pytest.approx(penalty, rel=1e-5) and penalty > 0
    for n in MATRICES:
        error = ((start[n] - recorder.start[n]) / recorder.start[n]).abs().max()
        assert 0 < float(error) <= LARGEST_ERROR, f"{n} is rounded by {float(error)} of a value"
    assert module.checkpoint_metadata()["anchor"]["reference_dtype"] == "bf16"


@pytest.mark.parametrize("on", ["features", "source_logits"])
def test_distillation_compares_with_the_network_in_bfloat16(pretrained: str, on: str) -> None:
    recorder = Recorder()
    module = DistillSFT(pretrained_mlp(pretrained), on=on, anchor_weight=0.3, reference_dtype="bf16")
    fit(module, digits(), max_steps=3, precision="64-true", callbacks=[recorder])
    start = {n: v.bfloat16() for n, v in recorder.start.items()}

    def loss(w: dict[str, Tensor], image: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            theirs = getattr(in_layers(start, image.bfloat16()), on).double()
        mine = mlp(w, image)
        return cross_entropy(mine.logits, y) + 0.3 * (getattr(mine, on) - theirs).square().sum(-1).mean()

    adamw = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0)
    assert_same_training(recorder, train_plainly(recorder, loss, adamw))
    assert recorder.logged[0]["train/loss_anchor"] > 0


def in_layers(w: dict[str, Tensor], image: Tensor) -> Any:
    """`mlp` with torch's linear layer, which in bfloat16 adds the bias before it rounds."""
    linear = torch.nn.functional.linear
    hidden = torch.relu(linear(image.flatten(1), w["encoder.1.weight"], w["encoder.1.bias"]))
    features = torch.relu(linear(hidden, w["encoder.4.weight"], w["encoder.4.bias"]))
    outputs = (linear(features, w[f"{head}.weight"], w[f"{head}.bias"]) for head in ("head", "source_head"))
    logits, source = outputs
    return mlp(w, image)._replace(logits=logits, features=features, source_logits=source)


@pytest.mark.parametrize("variant", ["l2sp-loss", "l2sp-decoupled", "distill-features-cosine"])
def test_drift_is_measured_from_the_exact_start_which_lies_on_disk(
    pretrained: str, tmp_path: Path, variant: str
) -> None:
    memory, module = StepMemory(), make(variant, pretrained, reference_dtype="bf16", lr=0.0)
    trainer = fit(module, digits(), max_epochs=1, default_root_dir=str(tmp_path), callbacks=[memory])
    drift = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("drift/")}
    assert drift["drift/weights_l2"] == 0.0 and module.teacher is not None and module.teacher.rests
    full = sum(p.numel() * p.element_size() for p in module.teacher.network.parameters())
    kept = module.reference
    expected = (
        full / 2 if isinstance(kept, ReferenceNetwork) else sum(2 * p.numel() for p in module.anchored().values())
    )
    assert memory.bytes["copies"] == expected, f"a step's memory counts {memory.bytes} of the start in bfloat16"


@pytest.mark.parametrize("variant", ["l2sp-loss", "distill-logits-kl"])
def test_a_resumed_fit_has_the_bits_of_one_without_a_break(pretrained: str, tmp_path: Path, variant: str) -> None:
    def trained(steps: int, ckpt: str | None = None) -> SFTModule:
        module = make(variant, pretrained, reference_dtype="bf16")
        trainer = fit(module, digits(), max_epochs=steps, ckpt_path=ckpt)
        if ckpt is None and steps == 1:
            trainer.save_checkpoint(tmp_path / "one.ckpt")
        return module

    trained(1)
    whole, resumed = trained(2), trained(2, str(tmp_path / "one.ckpt"))
    assert all(torch.equal(w, weights(resumed)[n]) for n, w in weights(whole).items())
    with refused("ckpt_path", "reference_dtype 'bf16' (now None)"):
        fit(make(variant, pretrained), digits(), max_epochs=2, ckpt_path=str(tmp_path / "one.ckpt"))


def test_what_has_no_effect_is_refused(pretrained: str) -> None:
    for variant in ("l2sp-loss", "distill-logits-kl"):
        with refused("model.reference_dtype", "no effect with trainer.precision bf16-true"):
            fit(make(variant, pretrained, reference_dtype="bf16"), digits(), max_steps=1, precision="bf16-true")
        with refused("model.reference_dtype", "must be one of bf16, got 'fp8'"):
            make(variant, pretrained, reference_dtype="fp8")
    with refused("model.reference_offload", "needs a GPU, and the run is on cpu"):
        fit(make("l2sp-loss", pretrained, reference_offload=True), digits(), max_steps=1)
    with refused("model.reference_dtype", "has no effect, since this run trains no pretrained weight"):
        fit(make("l2sp-loss", pretrained, reference_dtype="bf16", freeze="all-but-head"), digits(), max_steps=1)


def test_a_study_has_the_points_that_it_had() -> None:
    before = {"model": {"class_path": "L2SPSFT", "init_args": {"lr": 0.1}}}
    args = before["model"]["init_args"]
    now = {
        "model": {"class_path": "L2SPSFT", "init_args": {**args, "reference_dtype": None, "reference_offload": True}}
    }
    other = {"model": {"class_path": "L2SPSFT", "init_args": {**args, "reference_dtype": "bf16"}}}
    assert address(before) == address(now) != address(other)
    asked = {**before, "drift_rows": 1024}
    assert address(before) == address({**before, "drift_rows": None})
    assert address(before) != address(asked), "masks and boxes compare fewer rows by default than if 1024 are asked for"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("how", ["loss", "decoupled"])
def test_the_start_in_the_hosts_memory_gives_the_same_bits(pretrained: str, how: str) -> None:
    def trained(offload: bool) -> dict[str, Tensor]:
        module = L2SPSFT(pretrained_mlp(pretrained), how=how, reference_offload=offload)
        fit(module, digits(), max_steps=4, accelerator="gpu", devices=1)
        assert (module.reference is not None) == offload
        return weights(module)

    kept = trained(True)
    assert all(torch.equal(w, kept[n]) for n, w in trained(False).items())


@pytest.mark.gpu
@needs_gpu
def test_pinned_tensors_are_read_by_the_penalty() -> None:
    start = torch.randn(7, device="cuda")
    reference = ReferenceWeights({"w": start}, None, offload=True)
    (pinned,) = reference.of(["w"])
    weight = (start + 1.0).requires_grad_()
    weight.grad = torch.zeros_like(start)
    add_l2sp_gradient([weight], [pinned], 2.0)
    expected = weight.detach() - start
    assert pinned.is_pinned() and torch.equal(weight.grad, 2.0 * expected)
    pull_towards([weight], [pinned], 1.0)
    assert torch.equal(weight.detach(), start)
