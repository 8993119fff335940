"""Parameter groups, schedules and optimizers against closed forms."""

import math
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules.optim import make_optimizer, parameter_groups, schedule, warmup_steps
from sft_lightning.networks import Network, spec
from sft_lightning.networks.spec import build_network
from tests.refused import refused
from tests.support import NormNet, digits, fit, make, pretrained_mlp

FIVE = TaskInfo("classification", 5)


def deep() -> Network:
    return build_network(pretrained_mlp(None, hidden=[12, 10, 8]), FIVE)


def by_name(groups: list[dict[str, Any]], key: str) -> dict[str, float]:
    found = [(n, g[key]) for g in groups for n in g["names"]]
    assert len(found) == len(dict(found)), "a parameter is in two groups"
    return dict(found)


def test_every_trainable_parameter_is_in_exactly_one_group_under_its_own_name() -> None:
    network = deep()
    network.encoder[1].weight.requires_grad_(False)
    groups = parameter_groups(network, 1e-3, 0.1, 2.0, 0.5, set())
    named = dict(network.named_parameters())
    assert {n for g in groups for n in g["names"]} == set(named) - {"encoder.1.weight"}
    for group in groups:
        assert [id(named[n]) for n in group["names"]] == [id(p) for p in group["params"]]


def test_biases_norms_and_anchored_tensors_get_no_weight_decay() -> None:
    network = build_network(spec(NormNet), FIVE)
    decay = by_name(parameter_groups(network, 1e-3, 0.1, 1.0, 1.0, {"encoder.5.weight"}), "weight_decay")
    assert {n for n, d in decay.items() if d} == {"encoder.1.weight", "head.weight"}
    assert set(decay.values()) == {0.0, 0.1}


def test_learning_rates_fall_by_layer_decay_and_the_head_has_its_factor() -> None:
    rates = by_name(parameter_groups(deep(), 0.1, 0.0, 3.0, 0.5, set()), "lr")
    expected = {"encoder.1": 0.1 * 0.5**2, "encoder.4": 0.1 * 0.5, "encoder.7": 0.1, "head": 0.1 * 3}
    assert rates == {
        f"{layer}.{kind}": pytest.approx(r) for layer, r in expected.items() for kind in ("weight", "bias")
    }


CLOSED = {
    "constant": lambda i, warm, total: 1.0,
    "linear": lambda i, warm, total: (total - i) / (total - warm),
    "cosine": lambda i, warm, total: math.cos(math.pi / 2 * (i - warm) / (total - warm)) ** 2,
}


@pytest.mark.parametrize("warm", [0, 3])
@pytest.mark.parametrize("kind", CLOSED)
def test_schedule_is_linear_warmup_then_its_closed_form(kind: str, warm: int) -> None:
    factor = schedule(kind, warm, 10)
    for step in range(10):
        expected = (step + 1) / (warm + 1) if step < warm else CLOSED[kind](step, warm, 10)
        assert factor(step) == pytest.approx(expected, abs=1e-12), f"{kind} at step {step}"
    assert factor(10) == pytest.approx(1.0 if kind == "constant" else 0.0, abs=1e-12)
    assert factor(99) == factor(10), "the rate must not rise again after the last step"


def test_warmup_is_a_share_below_one_and_a_number_of_steps_from_one_on() -> None:
    assert [warmup_steps(w, 200) for w in (0.0, 0.1, 1, 30)] == [0, 20, 1, 30]
    with refused("model.warmup", -1):
        warmup_steps(-1, 10)


class Rates(Callback):
    """The learning rate of each group at each optimizer step."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.seen.append([g["lr"] for g in optimizer.param_groups])


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("kind", CLOSED)
def test_the_rate_of_each_optimizer_step_and_the_last(pretrained: str, kind: str, accumulate: int) -> None:
    """35 rows at 16 a step are 3 steps an epoch, whatever the accumulation: 6 in all, of which 2 warm up."""
    rates = Rates()
    module = make("plain", pretrained, lr=0.2, lr_schedule=kind, warmup=2, head_lr_factor=0.5)
    trainer = fit(
        module, digits(shots_per_class=7), max_epochs=2, accumulate_grad_batches=accumulate, callbacks=[rates]
    )
    factors = [1 / 3, 2 / 3, *(CLOSED[kind](i, 2, 6) for i in range(2, 6))]
    assert [r for r, _ in rates.seen] == pytest.approx([0.2 * f for f in factors], abs=1e-12)
    assert [r for _, r in rates.seen] == pytest.approx([0.1 * f for f in factors], abs=1e-12)
    last = [g["lr"] for g in trainer.optimizers[0].param_groups]
    assert last == pytest.approx([0.2, 0.1] if kind == "constant" else [0.0, 0.0], abs=1e-12)


def test_arguments_of_one_optimizer_do_not_leak_into_another() -> None:
    def resolved(name: str, arguments: dict[str, Any] | None) -> dict[str, Any]:
        group = make_optimizer(name, parameter_groups(deep(), 0.1, 0.0, 1.0, 1.0, set()), arguments).param_groups[0]
        return {k: v for k, v in group.items() if k not in ("params", "names")}

    def by_torch(cls: type[torch.optim.Optimizer], **arguments: Any) -> dict[str, Any]:
        group = cls([torch.nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0.0, **arguments).param_groups[0]
        return {k: v for k, v in group.items() if k != "params"}

    given = {"betas": (0.8, 0.9), "eps": 1e-5}
    assert resolved("AdamW", given) == by_torch(torch.optim.AdamW, **given)
    assert resolved("AdamW", None) == by_torch(torch.optim.AdamW), "arguments of the optimizer before are still there"
    assert resolved("SGD", {"momentum": 0.9}) == by_torch(torch.optim.SGD, momentum=0.9)
    assert resolved("SGD", None) == by_torch(torch.optim.SGD)
    assert resolved("torch.optim.SGD", None) == by_torch(torch.optim.SGD)
    assert given == {"betas": (0.8, 0.9), "eps": 1e-5}


@pytest.mark.parametrize(
    ("name", "arguments", "key", "values"),
    [
        ("AdmW", {}, "optimizer", ["'AdmW'", "did you mean 'AdamW'"]),
        ("nowhere.Adam", {}, "optimizer", ["'nowhere.Adam'"]),
        ("torch.nn.Linear", {}, "optimizer", ["'torch.nn.Linear'", "torch.optim.Optimizer"]),
        ("SGD", {"momentumm": 0.9}, "optimizer_args", ["SGD", "'momentumm'", "did you mean 'momentum'"]),
        ("SGD", {"betas": (0.9, 0.99)}, "optimizer_args", ["SGD", "'betas'"]),
        ("AdamW", {"weight_decay": 0.1}, "optimizer_args", ["'weight_decay'", "model.init_args.weight_decay"]),
        ("AdamW", {"lr": 0.1}, "optimizer_args", ["'lr'", "model.init_args.lr"]),
        ("AdamW", {"params": []}, "optimizer_args", ["'params'"]),
        ("SGD", {"momentum": None}, "optimizer_args", ["SGD's momentum", "must be a number, got null"]),
        ("SGD", {"momentum": "much"}, "optimizer_args", ["SGD's momentum", "'much'"]),
        ("LBFGS", {}, "weight_decay", ["LBFGS", "0"]),
    ],
)
def test_a_wrong_optimizer_or_argument_is_refused_with_the_nearest_name(
    name: str, arguments: dict[str, Any], key: str, values: list[str]
) -> None:
    with refused(f"model.{key}", *values):
        make_optimizer(name, parameter_groups(deep(), 0.1, 0.1, 1.0, 1.0, set()), arguments)
