"""Points between pretrained and tuned weights: each tensor, and BatchNorm's statistics, against a computation by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from sft_lightning.after.batchnorm import BATCH, batches, reestimate
from sft_lightning.after.choose import Point, Rule
from sft_lightning.after.ways import Ends, lines, said_blocks, wise_ft
from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.modules import PlainSFT, SFTModule
from sft_lightning.networks import spec
from tests.refused import refused
from tests.support import NormNet, digits, fit, make, pretrained_mlp, weights

LORA = {"class_path": "LoRA", "init_args": {"r": 4, "alpha": 8}}


def tuned(network: dict[str, object], **settings: object) -> SFTModule:
    module = PlainSFT(network, lr=5e-3, **settings)  # type: ignore[arg-type]
    fit(module, digits(), max_epochs=2)
    return module


def ends_of(module: SFTModule) -> Ends:
    assert module.network is not None and module.teacher is not None
    return Ends(module.network, module.teacher.network)


def test_pretrained_tensors_move_along_the_line_and_all_others_stay(pretrained: str) -> None:
    module = tuned(pretrained_mlp(pretrained))
    ends, after = ends_of(module), weights(module)
    start = dict(module.teacher.network.named_parameters()) if module.teacher else {}
    assert ends.moved
    for alpha in (0.0, 0.25, 1.0):
        ends.go(wise_ft(ends.network, alpha), alpha)
        for name, now in weights(module).items():
            expected = after[name]
            if name.startswith("encoder."):
                expected = (1 - alpha) * start[name].double() + alpha * after[name].double()
            exactly = alpha in (0.0, 1.0) or not name.startswith("encoder.")
            assert torch.allclose(now.double(), expected.double(), atol=0 if exactly else 1e-6, rtol=0), (alpha, name)


def test_lines_keeps_all_of_the_top_block_and_less_further_down(pretrained: str) -> None:
    module = tuned(pretrained_mlp(pretrained))
    network = module.network
    assert network is not None
    factors = lines(network, 0.3)
    assert {n: round(f, 9) for n, f in factors.items()} == {
        "encoder.1.weight": 0.3,
        "encoder.1.bias": 0.3,
        "encoder.4.weight": 1.0,
        "encoder.4.bias": 1.0,
        "source_head.weight": 0.3,
        "source_head.bias": 0.3,
    }
    assert set(lines(network, 1.0).values()) == {1.0}
    names = [["encoder.below.weight"], *([f"encoder.block.{i}.weight"] for i in range(5)), ["encoder.norm.weight"]]
    many = Layered([(n[0].rpartition(".")[0], n) for n in names])
    found = [round(f, 9) for f in lines(many, 0.2).values()]  # type: ignore[arg-type]
    assert found == [0.2, 0.2, 0.4, 0.6, 0.8, 1.0, 0.2], "0.2 + 0.8 (l − 1)/4 in blocks, and 0.2 outside of them"
    assert said_blocks(many) == "5 from the bottom: encoder.block.0 to 4"  # type: ignore[arg-type]
    two = Layered([(name, [f"{name}.weight"]) for name in ("encoder.stem.1", "encoder.norm", "encoder.stages.0")])
    assert said_blocks(two) == "2 from the bottom: encoder.stem.1, encoder.stages.0"  # type: ignore[arg-type]
    with refused("--how", "1"):
        lines(Layered([("encoder.0", ["encoder.0.weight"])]), 0.5)  # type: ignore[arg-type]


class Layered:
    """The part of a network that names layers."""

    name = "Layered"

    def __init__(self, layers: list[tuple[str, list[str]]]) -> None:
        self._layers = layers

    def layers(self) -> list[tuple[str, list[str]]]:
        return self._layers

    def shared_parameters(self) -> dict[str, None]:
        return {n: None for _, names in self._layers for n in names}

    def parameter_sets(self) -> dict[str, dict[str, None]]:
        return {"shared": self.shared_parameters(), "source_head": {}}

    def adapter_parameters(self) -> dict[str, None]:
        return {}


def test_adapters_scale_with_the_weights_beside_them(pretrained: str) -> None:
    module = tuned(pretrained_mlp(pretrained, transforms=[LORA]))
    ends = ends_of(module)
    start = {n: w.clone() for n, w in ends.network.shared_weights().items()}
    ends.go(wise_ft(ends.network, 0.0), 0.0)
    origin = ends.network.shared_weights()
    ends.go(wise_ft(ends.network, 0.25), 0.25)
    for name, now in ends.network.shared_weights().items():
        expected = origin[name] + 0.25 * (start[name] - origin[name])
        assert torch.allclose(now, expected, atol=1e-6), name
        assert "bias" in name or not torch.equal(now, origin[name])


def test_a_source_head_that_was_tuned_moves_too(pretrained: str) -> None:
    module = make("distill-logits-kl", pretrained, on="source_logits", train_source_head=True, lr=5e-3)
    fit(module, digits(), max_epochs=2)
    ends, after, start = ends_of(module), weights(module), module.teacher.network.state_dict()  # type: ignore[union-attr]
    assert not torch.equal(after["source_head.weight"], start["source_head.weight"])
    ends.go(wise_ft(ends.network, 0.0), 0.0)
    assert all(torch.equal(v, start[n]) for n, v in weights(module).items() if not n.startswith("head."))
    ends.go(lines(ends.network, 0.25), 0.25)
    expected = start["source_head.weight"] + 0.25 * (after["source_head.weight"] - start["source_head.weight"])
    assert torch.allclose(weights(module)["source_head.weight"], expected, atol=1e-6)


def test_statistics_are_those_of_shuffled_batches_of_training_samples(pretrained_norms: str) -> None:
    module, data = (
        PlainSFT(spec(NormNet, pretrained=pretrained_norms, dropout=0.5), lr=5e-3),
        digits(shots_per_class=30),
    )
    trainer = fit(module, data, max_epochs=2)
    module.eval()
    ends = ends_of(module)
    norm, before = dict(ends.moved_norms())["encoder.2"], weights(module)
    ends.go(wise_ft(ends.network, 0.5), 0.5)
    seen = int(norm.num_batches_tracked)  # type: ignore[arg-type]
    state = torch.get_rng_state()
    assert reestimate(trainer, module, data, [norm]) == 128, "150 samples are two whole batches of 64"
    assert torch.equal(torch.get_rng_state(), state) and not norm.training and norm.momentum == 0.1
    assert int(norm.num_batches_tracked) == seen  # type: ignore[arg-type]

    means, variances = [], []
    state_now = weights(module)
    for batch in batches(data):
        rows = batch["index"].numpy()
        assert len(rows) == BATCH and len(np.unique(batch["y"])) == 5, "a batch is not mixed"
        x = data.receive(batch)["x"]["image"].flatten(1).double().numpy()
        hidden = x @ state_now["encoder.1.weight"].double().numpy().T + state_now["encoder.1.bias"].double().numpy()
        means.append(hidden.mean(0))
        variances.append(hidden.var(0, ddof=1))
    assert state_now["encoder.2.running_mean"].numpy() == pytest.approx(np.mean(means, 0), abs=1e-5)
    assert state_now["encoder.2.running_var"].numpy() == pytest.approx(np.mean(variances, 0), rel=1e-4, abs=1e-5)
    ends.go(wise_ft(ends.network, 1.0), 1.0)
    assert all(torch.equal(v, before[n]) for n, v in weights(module).items()), "the tuned end is not the tuned network"


def test_statistics_that_tuning_did_not_move_stay(pretrained_norms: str) -> None:
    module = tuned(spec(NormNet, pretrained=pretrained_norms), freeze_batchnorm_stats=True)
    assert not ends_of(module).moved_norms()
    assert isinstance(module.network, nn.Module)


def test_statistics_keep_what_their_layer_keeps(pretrained_norms: str) -> None:
    module = tuned(spec(NormNet, pretrained=pretrained_norms))
    network, teacher = module.network, module.teacher
    assert network is not None and teacher is not None
    ends, after, start = ends_of(module), weights(module), dict(teacher.network.named_buffers())
    factors = lines(network, 0.1)
    assert factors["encoder.2.weight"] == pytest.approx(0.1 + 0.9 / 3), "the second block of four"
    ends.go(factors, 0.1)
    for name in ("encoder.2.running_mean", "encoder.2.running_var"):
        expected = start[name] + factors["encoder.2.weight"] * (after[name] - start[name])
        assert torch.allclose(weights(module)[name], expected, atol=1e-6), name


def test_statistics_of_new_layers_stay(pretrained_norms: str) -> None:
    module = tuned(spec(NormNet, pretrained=pretrained_norms))
    network, after = module.network, weights(module)
    assert network is not None
    network.fresh = {
        n.removeprefix("encoder.") for n in after if n.startswith("encoder.2.")
    }  # as if `pretrained` had none
    ends = ends_of(module)
    assert list(ends.moved_norms()) == ["encoder.2"], "their statistics are estimated again between the ends"
    ends.go(wise_ft(network, 0.0), 0.0)
    for name, now in weights(module).items():
        assert torch.equal(now, after[name]) == (not name.startswith(("encoder.1.", "encoder.5.", "encoder.6."))), name


ACCURACY, KEPT = MetricInfo("val/accuracy", "max", SHARE), MetricInfo("retention/accuracy", "max", SHARE)
LOSS, DRIFT = MetricInfo("val/loss", "min"), MetricInfo("drift/weights_relative", "min")
CURVE = [
    (0.0, 0.2, 1.0, 2.0),
    (0.4, 0.88, 0.97, 0.5),
    (0.6, 0.9, 0.95, 0.4),
    (0.8, 0.9, 0.9, 0.3),
    (1.0, 0.89, 0.8, 0.2),
]


@pytest.mark.parametrize(
    ("learned", "kept", "margin", "chosen"),
    [
        (ACCURACY, KEPT, None, 0.8),  # two points are best, and this has the lower loss
        (ACCURACY, KEPT, 0.0, 0.6),  # of the two, this keeps more
        (ACCURACY, KEPT, 0.02, 0.4),  # 0.88 is 0.02 below 0.9 but for rounding
        (ACCURACY, KEPT, 0.019, 0.6),
        (ACCURACY, KEPT, 1.0, 0.0),
        (LOSS, KEPT, None, 1.0),
        (LOSS, KEPT, 0.1, 0.8),
        (ACCURACY, DRIFT, 0.01, 0.6),  # where the source was not measured: the nearest to the start
    ],
)
def test_the_rule_chooses_what_it_says(
    learned: MetricInfo, kept: MetricInfo, margin: float | None, chosen: float
) -> None:
    points = [
        Point(a, {"val/accuracy": acc, "retention/accuracy": ret, "val/loss": loss, "drift/weights_relative": a})
        for a, acc, ret, loss in CURVE
    ]
    found = Rule(learned, kept, margin).choose(points)
    assert found is not None and found.alpha == chosen


def test_values_that_are_no_numbers_are_never_chosen() -> None:
    nan = float("nan")
    points = [Point(0.0, {"val/accuracy": nan, "retention/accuracy": 1.0}), Point(1.0, {"val/accuracy": 0.1})]
    found = Rule(ACCURACY, KEPT, 0.5).choose(points)
    assert found is not None and found.alpha == 1.0
    assert Rule(ACCURACY, KEPT).choose(points[:1]) is None
