"""What a checkpoint refuses, and what can be rebuilt from it alone; tests/exactness has what it holds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sft_lightning.modules import L2SPSFT, DistillSFT, PlainSFT, SFTModule
from tests.refused import refused
from tests.support import OLD, VARIANTS, digits, fit, make, pretrained_mlp, quiet_trainer, weights


def saved(module: SFTModule, path: Path, **settings: Any) -> str:
    trainer = fit(module, digits(), max_epochs=1, **settings)
    trainer.save_checkpoint(path)
    return str(path)


@pytest.fixture(scope="module")
def checkpoints(pretrained: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {v: saved(make(v, pretrained, lr=1e-2), folder / f"{v}.ckpt") for v in VARIANTS}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("variant", VARIANTS)
def test_load_from_checkpoint_rebuilds_the_module_without_data(checkpoints: Any, variant: str) -> None:
    cls = VARIANTS[variant][0]
    module = cls.load_from_checkpoint(checkpoints[variant])
    state = torch.load(checkpoints[variant], weights_only=True)["state_dict"]
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), f"{name} is not the checkpoint's"
    assert module.info.labels == ["5", "6", "7", "8", "9"] and module.info.num_outputs == 5
    assert module({"image": torch.zeros(2, 1, 8, 8)}).logits.shape == (2, 5)
    assert {k: module.hparams[k] for k in VARIANTS[variant][1]} == VARIANTS[variant][1]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(pretrained: str, checkpoints: Any, variant: str) -> None:
    whole, resumed = make(variant, pretrained, lr=1e-2), make(variant, pretrained, lr=1e-2)
    fit(whole, digits(), max_epochs=2)
    fit(resumed, digits(), seed=99, max_epochs=2, ckpt_path=checkpoints[variant])
    different = [n for n, v in weights(resumed).items() if not torch.equal(v, weights(whole)[n])]
    assert not different, f"{variant}: a resumed run differs in {different}"


def test_the_anchor_after_resume_is_the_pretrained_net_not_the_resumed_one(pretrained: str, checkpoints: Any) -> None:
    module = make("l2sp-loss", pretrained, lr=1e-2)
    fit(module, digits(), max_epochs=2, ckpt_path=checkpoints["l2sp-loss"])
    start = load_file(f"{pretrained}/model.safetensors")
    for name, value in module.teacher.initial.items():
        assert torch.equal(value, start[name]), f"{name} is not anchored to the pretrained weights after resume"


@pytest.mark.parametrize(
    ("saved_as", "asked", "values"),
    [
        ("l2sp-loss", lambda f: PlainSFT(f), ["L2SPSFT", "PlainSFT", "network.init_args.pretrained"]),
        ("plain", lambda f: DistillSFT(f), ["PlainSFT", "DistillSFT"]),
        ("l2sp-loss", lambda f: L2SPSFT(f, alpha=0.2, beta=0.01), ["alpha 0.1 (now 0.2)"]),
        ("l2sp-loss", lambda f: L2SPSFT(f, how="decoupled"), ["how 'loss' (now 'decoupled')"]),
        (
            "distill-logits-mse",
            lambda f: DistillSFT(f, anchor_weight=0.5, distance="kl"),
            ["anchor_weight 0.3 (now 0.5)", "distance 'mse' (now 'kl')"],
        ),
    ],
)
def test_another_variant_or_anchor_is_refused_naming_what_differs(
    pretrained: str, checkpoints: Any, saved_as: str, asked: Any, values: list[str]
) -> None:
    with refused("ckpt_path", *values):
        fit(asked(pretrained_mlp(pretrained)), digits(), max_epochs=2, ckpt_path=checkpoints[saved_as])
    trainer = quiet_trainer()
    with refused("ckpt_path", *values):
        trainer.test(asked(pretrained_mlp(pretrained)), digits(), ckpt_path=checkpoints[saved_as], verbose=False)


def test_another_teacher_is_refused(pretrained: str, checkpoints: Any, tmp_path: Path) -> None:
    state = load_file(f"{pretrained}/model.safetensors")
    state["encoder.1.weight"][0, 0] += 1e-3
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(Path(pretrained, "config.json").read_text())
    for variant in VARIANTS:
        with refused("ckpt_path", "hash", "network.init_args.pretrained"):
            fit(make(variant, str(tmp_path), lr=1e-2), digits(), max_epochs=2, ckpt_path=checkpoints[variant])


def test_a_checkpoint_for_other_classes_is_refused(pretrained: str, tmp_path: Path) -> None:
    path = tmp_path / "new.ckpt"
    fit(make("plain", pretrained), digits(), max_steps=1).save_checkpoint(path)
    with refused("ckpt_path", "labels", ["5", "6", "7", "8", "9"]):
        fit(make("plain", pretrained), digits(OLD), max_steps=2, ckpt_path=path)
