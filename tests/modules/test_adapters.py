"""Training with LoRA: what moves, what the anchors and gauges of weights see, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sft_lightning.ablation.plan import address
from sft_lightning.modules import L2SPSFT, LinearProbe, PlainSFT, SFTModule
from sft_lightning.modules.optim import parameter_groups
from sft_lightning.networks import LoRA, TransformersText, spec
from sft_lightning.sharding.tensors import whole
from tests.exactness.cases import FewTexts
from tests.networks.tiny import tiny_folder
from tests.refused import refused
from tests.support import VARIANTS, NormNet, Recorder, Scaled, digits, fit, make, moved, pretrained_mlp, weights

pytest.importorskip("peft", reason="the extra [lora] is not installed")
SCALE = 6.0 / 4
ADAPTER = spec(LoRA, r=4, alpha=6.0)  # type: ignore[arg-type]
ANCHORED = [v for v in VARIANTS if v != "plain"]


def adapted(variant: str, folder: str, **settings: Any) -> SFTModule:
    arguments = {"beta": 0.0} if "beta" in VARIANTS[variant][1] else {}
    return make(variant, folder, network={"transforms": [ADAPTER]}, **{**arguments, **settings})


def products(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """s·B·A of each adapted layer, from a state dict, by hand."""
    layers = [n.removesuffix(".lora_A.default.weight") for n in tensors if n.endswith("lora_A.default.weight")]
    assert layers
    return {n: SCALE * tensors[f"{n}.lora_B.default.weight"] @ tensors[f"{n}.lora_A.default.weight"] for n in layers}


class Displaced(Callback):
    """Moves B away from 0 before the first step, so that there is something to pull back."""

    def __init__(self) -> None:
        self.start: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in pl_module.network.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        self.start = weights(pl_module)


# ---- what moves ----


@pytest.mark.parametrize("variant", VARIANTS)
def test_adapters_and_new_layers_learn_and_all_else_stands_still(pretrained: str, variant: str) -> None:
    recorder = Recorder()
    module = adapted(variant, pretrained, lr=1e-2)
    fit(module, digits(), max_steps=4, callbacks=[recorder])
    now = weights(module)
    changed = {n for n, v in now.items() if not torch.equal(v, recorder.start[n])}
    assert changed == module.network.adapter_parameters().keys() | module.network.new_parameters().keys()


@pytest.mark.parametrize("variant", ANCHORED)
def test_the_anchor_is_exactly_zero_at_the_first_step_and_positive_afterwards(pretrained: str, variant: str) -> None:
    recorder = Recorder()
    fit(adapted(variant, pretrained, lr=1e-2), digits(), max_steps=4, callbacks=[recorder])
    anchors = [logged["train/loss_anchor"] for logged in recorder.logged]
    assert anchors[0] == 0.0 and min(anchors[1:]) > 0.0, f"{variant}: {anchors}"


@pytest.mark.parametrize("settings", [{"alpha": 0.0, "beta": 0.0}, {"how": "decoupled", "decoupled_weight": 0.0}])
def test_at_strength_zero_l2sp_is_plain_sft_bit_for_bit(pretrained: str, settings: dict[str, Any]) -> None:
    network = pretrained_mlp(pretrained, transforms=[ADAPTER])
    modules = [PlainSFT(network, weight_decay=0.1), L2SPSFT(network, weight_decay=0.1, **settings)]
    for module in modules:
        fit(module, digits(), max_epochs=1)
    one, other = map(weights, modules)
    assert all(torch.equal(v, other[n]) for n, v in one.items())


def test_batchnorm_statistics_stand_still_with_the_weights_of_their_layers(pretrained_norms: str) -> None:
    module = PlainSFT(spec(NormNet, pretrained=pretrained_norms, transforms=[ADAPTER]), lr=1e-2)
    trainer = fit(module, digits(), max_epochs=1)
    assert trainer.callback_metrics["drift/buffers_relative"] == 0.0


def test_the_teacher_is_the_pretrained_network_whether_or_not_there_are_adapters(pretrained: str) -> None:
    hashes = set()
    for module in (adapted("distill-logits-mse", pretrained), make("distill-logits-mse", pretrained)):
        fit(module, digits(), max_steps=1)
        hashes.add(module.teacher.hash)
    assert len(hashes) == 1


# ---- anchors and gauges of weights are of the effective ones ----


def test_drift_of_weights_is_the_length_of_the_products(pretrained: str) -> None:
    module = adapted("plain", pretrained, lr=1e-2)
    values = fit(module, digits(), max_epochs=1).callback_metrics
    expected = torch.stack([d.norm() for d in products(weights(module)).values()]).norm()
    assert expected > 0.01
    assert float(values["drift/weights_l2"]) == pytest.approx(float(expected), rel=1e-4)
    length = torch.stack([w.norm() for w in module.teacher.initial.values()]).norm()
    assert float(values["drift/weights_relative"]) == pytest.approx(float(expected / length), rel=1e-4)


def test_l2sp_adds_the_gradient_of_half_alpha_times_the_squared_products(pretrained: str) -> None:
    alpha, found = 0.7, []
    for variant in ("plain", "l2sp-loss"):
        recorder, displaced = Recorder(), Displaced()
        module = adapted(variant, pretrained, **({} if variant == "plain" else {"alpha": alpha}))
        fit(module, digits(), max_steps=1, callbacks=[displaced, recorder])
        found.append((recorder.grads[0], recorder.logged[0], displaced.start))
    (plain, _, start), (anchored, logged, same) = found
    leaves = {n: v.clone().requires_grad_() for n, v in start.items() if "lora_" in n}
    penalty = 0.5 * alpha * sum(d.square().sum() for d in products(leaves).values())
    penalty.backward()
    for name, leaf in leaves.items():
        assert torch.equal(start[name], same[name])
        assert torch.allclose(anchored[name], plain[name] + leaf.grad, rtol=1e-4, atol=1e-6), name
    assert logged["train/loss_anchor"] == pytest.approx(float(penalty), rel=1e-5)


def test_ewc_adds_the_gradient_of_the_squared_products_weighed_by_the_fisher_information(pretrained: str) -> None:
    strength, found = 300.0, []
    for variant in ("plain", "ewc"):
        recorder, displaced = Recorder(), Displaced()
        module = adapted(variant, pretrained, **({} if variant == "plain" else {"anchor_weight": strength}))
        fit(module, digits(), max_steps=1, callbacks=[displaced, recorder])
        found.append((recorder.grads[0], recorder.logged[0], displaced.start))
    (plain, _, start), (anchored, logged, _) = found
    fisher = {n.removesuffix(".weight"): f for n, f in module.fisher.items()}
    leaves = {n: v.clone().requires_grad_() for n, v in start.items() if "lora_" in n}
    moved = {n.removesuffix(".weight"): d for n, d in products(leaves).items()}
    assert moved and moved.keys() <= fisher.keys(), f"{moved.keys()} are not among {fisher.keys()}"
    penalty = 0.5 * strength * sum((fisher[n] * d.square()).sum() for n, d in moved.items())
    penalty.backward()
    for name, leaf in leaves.items():
        assert torch.allclose(anchored[name], plain[name] + leaf.grad, rtol=1e-4, atol=1e-6), name
    assert float(penalty) > 1e-6 and logged["train/loss_anchor"] == pytest.approx(float(penalty), rel=1e-5)


@pytest.mark.parametrize("plugins", [[], [Scaled]], ids=["", "with a gradient scaler"])
def test_decoupled_l2sp_takes_back_a_share_of_the_products(pretrained: str, plugins: list[Any]) -> None:
    """On top of PlainSFT's step, to first order in the learning rate; the head is not pulled."""
    lr, strength, after = 1e-3, 50.0, []
    for variant, own in (("plain", {}), ("l2sp-decoupled", {"decoupled_weight": strength})):
        displaced = Displaced()
        module = adapted(variant, pretrained, optimizer="SGD", lr=lr, **own)
        scaled = {"plugins": [plugin() for plugin in plugins]} if plugins else {}
        fit(module, digits(), max_steps=1, callbacks=[displaced], **scaled)
        after.append(weights(module))
    start = products(displaced.start)
    for name, plain in products(after[0]).items():
        pulled = products(after[1])[name] - plain
        expected = -lr * strength * start[name]
        assert float((pulled - expected).norm() / expected.norm()) < 0.02
    assert torch.equal(after[0]["head.weight"], after[1]["head.weight"])


def test_a_stronger_l2sp_leaves_less_drift(pretrained: str) -> None:
    drifts = []
    for alpha in (0.0, 0.1, 1.0, 10.0):
        values = fit(adapted("l2sp-loss", pretrained, lr=1e-2, alpha=alpha), digits(), max_epochs=3).callback_metrics
        drifts.append(float(values["drift/weights_l2"]))
    assert drifts == sorted(drifts, reverse=True) and drifts[-1] < 0.5 * drifts[0], drifts


# ---- learning rates, decay, freezing ----


def test_adapters_learn_at_lr_and_new_layers_at_its_multiple(pretrained: str) -> None:
    module = adapted("plain", pretrained)
    fit(module, digits(), max_steps=1)
    network = module.network
    groups = parameter_groups(network, 0.1, 0.5, 10.0, 0.5, set())
    rate = {n: g["lr"] for g in groups for n in g["names"]}
    decay = {n: g["weight_decay"] for g in groups for n in g["names"]}
    assert rate.keys() == network.adapter_parameters().keys() | {"head.weight", "head.bias"}
    assert {r for n, r in rate.items() if n.startswith("head")} == {1.0}
    layers = [n for n, _ in network.layers()]
    for name, value in rate.items():
        if "lora_" in name:
            depth = len(layers) - 1 - next(i for i, layer in enumerate(layers) if name.startswith(f"{layer}."))
            assert value == pytest.approx(0.1 * 0.5**depth), name
            assert decay[name] == 0.5
    anchored = adapted("l2sp-loss", pretrained)
    fit(anchored, digits(), max_steps=1)
    assert network.adapter_parameters().keys() <= anchored.no_decay_names()


def test_a_warm_up_of_the_head_holds_adapters_still(pretrained: str) -> None:
    recorder = Recorder()
    fit(adapted("plain", pretrained, lr=1e-2, head_warmup=2), digits(), max_steps=4, callbacks=[recorder])
    still, now = recorder.weights[1], recorder.weights[3]
    names = [n for n in still if "lora_" in n]
    assert all(torch.equal(still[n], recorder.start[n]) for n in names)
    assert not any(torch.equal(now[n], recorder.start[n]) for n in names if "lora_B" in n)


def test_freezing_the_bottom_layers_freezes_their_adapters(pretrained: str) -> None:
    module = adapted("plain", pretrained, freeze={"bottom_layers": 1})
    fit(module, digits(), max_steps=1)
    assert [a.trained for a in module.network.adapters] == [False, True]


@pytest.mark.parametrize(
    ("cls", "settings", "key", "values"),
    [
        (
            PlainSFT,
            {"freeze": "all-but-head"},
            "model.freeze",
            ["all-but-head", "adapters", "network.init_args.transforms"],
        ),
        (PlainSFT, {"freeze": ["base_layer"]}, "model.freeze", ["['base_layer']", "network.init_args.transforms"]),
        (LinearProbe, {}, "network.transforms", ["LinearProbe"]),
    ],
)
def test_what_would_leave_a_setting_without_effect_is_refused(
    pretrained: str, cls: type[SFTModule], settings: dict[str, Any], key: str, values: list[str]
) -> None:
    module = cls(pretrained_mlp(pretrained, transforms=[ADAPTER]), **settings)
    with refused(key, *values):
        fit(module, digits(), max_steps=1)


# ---- resume, averages, precision, memory ----


def test_a_resumed_run_with_an_average_equals_an_uninterrupted_one_bit_for_bit(pretrained: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lr": 1e-2, "ema_decay": 0.9}
    first, whole_run, resumed = (adapted("distill-logits-mse", pretrained, **settings) for _ in range(3))
    fit(first, digits(), max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    fit(whole_run, digits(), max_epochs=2)
    fit(resumed, digits(), seed=99, max_epochs=2, ckpt_path=str(tmp_path / "last.ckpt"))
    one, other = weights(whole_run), weights(resumed)
    assert not [n for n, v in one.items() if not torch.equal(v, other[n])]
    again = type(first).load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.network.adapter_parameters().keys() == first.network.adapter_parameters().keys()


def test_a_checkpoint_with_another_scale_is_refused(pretrained: str, tmp_path: Path) -> None:
    """Its tensors would fit, and mean another network."""
    fit(adapted("plain", pretrained), digits(), max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    for given in ([spec(LoRA, r=4, alpha=12.0)], []):  # type: ignore[arg-type]
        module = make("plain", pretrained, network={"transforms": given})
        with refused("ckpt_path", "LoRA", "12.0" if given else "[]", "network.init_args.transforms"):
            fit(module, digits(), max_epochs=2, ckpt_path=str(tmp_path / "last.ckpt"))


def test_a_checkpoint_with_adapters_is_no_pretrained_network(pretrained: str, tmp_path: Path) -> None:
    fit(adapted("plain", pretrained), digits(), max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    with refused("network.pretrained", tmp_path / "last.ckpt", "adapters"):
        fit(make("plain", str(tmp_path / "last.ckpt")), digits(), max_steps=1)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
@pytest.mark.parametrize("variant", ["plain", "distill-logits-mse", "l2sp-loss", "l2sp-decoupled"])
def test_other_precisions_train_the_same_network_to_their_rounding(
    pretrained: str, variant: str, precision: str
) -> None:
    single, other = (adapted(variant, pretrained, optimizer="SGD", lr=0.05) for _ in range(2))
    fit(single, digits(), max_steps=3)
    fit(other, digits(), max_steps=3, precision=precision)
    off = moved(*({n: v for n, v in weights(m).items() if "lora_" in n} for m in (other, single)))
    assert off < (0.15 if "bf16" in precision else 1e-4), off


def test_recomputed_activations_give_the_same_gradients(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, "bert", "sequence")
    recorders = []
    for checkpointing in (False, True):
        recorders.append(Recorder())
        network = spec(
            TransformersText,
            pretrained=folder,
            dropout=0.0,
            gradient_checkpointing=checkpointing,
            transforms=[ADAPTER],
        )
        fit(PlainSFT(network), FewTexts(), max_steps=2, callbacks=[recorders[-1]])
    one, other = (r.grads[1] for r in recorders)
    assert any("lora_" in n for n in one)
    assert all(torch.allclose(v, other[n], atol=1e-6) for n, v in one.items()) and one.keys() == other.keys()


def test_no_transforms_make_no_other_point() -> None:
    network = {"class_path": "MLP", "init_args": {"hidden": [2]}}
    none = {"class_path": "MLP", "init_args": {"hidden": [2], "transforms": None}}
    some = {"class_path": "MLP", "init_args": {"hidden": [2], "transforms": [ADAPTER]}}
    assert address({"network": network}) == address({"network": none}) != address({"network": some})


def test_the_effective_weight_is_what_whole_tensors_make(pretrained: str) -> None:
    module = adapted("plain", pretrained, lr=1e-2)
    fit(module, digits(), max_steps=3)
    state = weights(module)
    for layer, product in products(state).items():
        made = whole(module.network.shared_weights()[f"{layer}.weight"])
        assert torch.allclose(made, state[f"{layer}.base_layer.weight"] + product, atol=1e-6)
