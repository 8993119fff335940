"""What is frozen does not move by a bit, and what is not, does."""

from typing import Any

import pytest
import torch

from sft_lightning.modules import PlainSFT
from sft_lightning.networks import spec
from tests.refused import refused
from tests.support import VARIANTS, NormNet, Recorder, digits, fit, make, weights

STATISTICS = {"encoder.2.running_mean", "encoder.2.running_var", "encoder.2.num_batches_tracked"}


def norm_net(variant: str, folder: str, **settings: Any) -> Any:
    cls, arguments = VARIANTS[variant]
    return cls(spec(NormNet, pretrained=folder), lr=1e-2, weight_decay=0.1, **{**arguments, **settings})


def stood_still(recorder: Recorder, module: Any) -> set[str]:
    now = weights(module)
    return {n for n, v in recorder.start.items() if torch.equal(v, now[n]) and not n.startswith("source_head")}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("freeze", "still"),
    [
        (None, set()),
        ("all-but-head", {"encoder.1.weight", "encoder.1.bias", "encoder.4.weight", "encoder.4.bias"}),
        ({"bottom_layers": 1}, {"encoder.1.weight", "encoder.1.bias"}),
        ({"bottom_layers": 0}, set()),
        ([r"bias$", "encoder.4.w"], {"encoder.1.bias", "encoder.4.bias", "head.bias", "encoder.4.weight"}),
    ],
    ids=str,
)
def test_exactly_what_freeze_names_stands_still(pretrained: str, variant: str, freeze: Any, still: set[str]) -> None:
    recorder = Recorder()
    module = make(variant, pretrained, lr=1e-2, weight_decay=0.1, freeze=freeze)
    trainer = fit(module, digits(), max_steps=3, callbacks=[recorder])
    assert stood_still(recorder, module) == still
    assert set(module.frozen) == still
    trained = {n for g in trainer.optimizers[0].param_groups for n in g["names"]}
    assert not trained & still, "frozen parameters are in the optimizer"


@pytest.mark.parametrize(
    ("freeze", "values"),
    [
        ("all-but-heads", ["'all-but-heads'", "all-but-head,", "bottom_layers"]),
        ({"top_layers": 2}, ["bottom_layers", "top_layers"]),
        ({"bottom_layers": 9}, ["bottom_layers", "9", "from 0 to 2"]),
        ({"bottom_layers": -1}, ["bottom_layers", "-1", "from 0 to 2"]),
        ({"bottom_layers": "1"}, ["'1'", "all-but-head", "bottom_layers"]),
        ([r"encoder\.7"], [r"'encoder\.7'", "first is encoder.1.weight", "last head.bias"]),
        (["(encoder"], ["'(encoder'", "regular expression"]),
        (["."], ["['.']"]),
        (["source_head"], ["'source_head'", "first is encoder.1.weight", "last head.bias"]),
        (True, ["True", "all-but-head", "bottom_layers"]),
        (3, ["3", "all-but-head", "bottom_layers"]),
    ],
    ids=str,
)
def test_a_freeze_that_cannot_work_is_refused_with_the_reason(pretrained: str, freeze: Any, values: list[str]) -> None:
    with refused("model.freeze", *values):
        fit(make("plain", pretrained, freeze=freeze), digits(), max_steps=1)


def test_the_source_head_never_moves_and_is_not_trained(pretrained: str) -> None:
    recorder = Recorder()
    module = make("distill-logits-mse", pretrained, lr=0.1, weight_decay=0.5)
    trainer = fit(module, digits(), max_steps=5, callbacks=[recorder])
    for kind in ("weight", "bias"):
        assert torch.equal(weights(module)[f"source_head.{kind}"], recorder.start[f"source_head.{kind}"])
    assert not any("source_head" in n for g in trainer.optimizers[0].param_groups for n in g["names"])


@pytest.mark.one_in(3)
@pytest.mark.parametrize("variant", VARIANTS)
def test_batchnorm_statistics_stand_still_where_asked_while_weights_train(pretrained_norms: str, variant: str) -> None:
    recorder = Recorder()
    module = norm_net(variant, pretrained_norms, freeze_batchnorm_stats=True)
    fit(module, digits(), max_epochs=2, num_sanity_val_steps=1, callbacks=[recorder])
    assert stood_still(recorder, module) == STATISTICS


def test_batchnorm_statistics_move_otherwise(pretrained_norms: str) -> None:
    recorder = Recorder()
    module = norm_net("l2sp-loss", pretrained_norms)
    fit(module, digits(), max_steps=3, callbacks=[recorder])
    assert not stood_still(recorder, module), "the test net's statistics would stand still by themselves"


@pytest.mark.parametrize("freeze", ["all-but-head", {"bottom_layers": 2}, [r"encoder\.2\."]], ids=str)
def test_statistics_of_a_frozen_batchnorm_stand_still_too(pretrained_norms: str, freeze: Any) -> None:
    recorder = Recorder()
    module = norm_net("plain", pretrained_norms, freeze=freeze)
    fit(module, digits(), max_epochs=2, callbacks=[recorder])
    assert stood_still(recorder, module) >= STATISTICS
    assert "head.weight" not in stood_still(recorder, module)


def test_a_linear_probe_sees_the_features_without_dropout(pretrained_norms: str) -> None:
    module = PlainSFT(spec(NormNet, pretrained=pretrained_norms), freeze="all-but-head")
    fit(module, digits(), max_steps=2)
    module.train()
    assert module.network is not None
    assert not any(m.training for m in module.network.encoder.modules()), "the frozen encoder is in train mode"
    assert module.network.head.training
