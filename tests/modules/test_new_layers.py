"""Layers that `pretrained` did not fill are new wherever they stand: BERT's pooler, RoBERTa's and DistilBERT's dense layer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules import L2SPSFT, DistillSFT, PlainSFT, SFTModule
from sft_lightning.modules.freeze import frozen_names
from sft_lightning.modules.optim import parameter_groups
from sft_lightning.networks import MLP, TransformersLM, TransformersText, build_network, spec
from tests.exactness.cases import FewTexts
from tests.networks.tiny import SENTENCES, tiny_folder
from tests.refused import refused
from tests.support import NormNet, Recorder, digits, fit, pretrained_mlp, weights

TWO = TaskInfo("classification", 2, ["no", "yes"])
NEW_LAYER = {"bert": "bert.pooler.dense", "roberta": "classifier.dense", "distilbert": "pre_classifier"}


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of masked language models: whole encoders, without the layer that makes a text's vector of them."""
    root = tmp_path_factory.mktemp("masked")
    return {kind: tiny_folder(root / kind, kind, "masked") for kind in NEW_LAYER}


def names_of(kind: str) -> set[str]:
    return {f"encoder.{NEW_LAYER[kind]}.{n}" for n in ("weight", "bias")}


def tuned(cls: type[SFTModule], folder: str, seed: int = 0, **settings: Any) -> tuple[SFTModule, Recorder, Any]:
    recorder = Recorder()
    module = cls(spec(TransformersText, pretrained=folder, dropout=0.0), lr=1e-2, **settings)
    trainer = fit(module, FewTexts(), seed=seed, max_epochs=1, callbacks=[recorder])
    return module, recorder, trainer


@pytest.mark.parametrize("kind", NEW_LAYER)
def test_all_but_head_freezes_exactly_what_pretrained_filled(masked: dict[str, str], kind: str) -> None:
    module, recorder, trainer = tuned(PlainSFT, masked[kind], freeze="all-but-head")
    assert module.network is not None
    now, shared = weights(module), set(module.network.shared_parameters())
    moved = {n for n, p in module.network.named_parameters() if not torch.equal(recorder.start[n], now[n])}
    assert moved == names_of(kind) | {"head.weight", "head.bias"}, "the new layers alone are to learn"
    assert set(module.frozen) == shared
    values = trainer.callback_metrics
    assert values["drift/weights_l2"] == 0.0
    assert values["drift/features_cka"] == pytest.approx(1.0), "nothing pretrained moved, so its features did not"


def test_frozen_layers_see_no_dropout_while_new_ones_above_them_do(masked: dict[str, str]) -> None:
    module = PlainSFT(spec(TransformersText, pretrained=masked["bert"], dropout=0.1), freeze="all-but-head")
    fit(module, FewTexts(), max_steps=1)
    encoder = module.train().network.encoder  # type: ignore[union-attr]
    training = {n for n, m in encoder.named_modules() if m.training}
    assert not any(n.startswith(("bert.embeddings", "bert.encoder")) for n in training)
    assert {"bert.pooler", "bert.pooler.dense", "dropout"} <= training


@pytest.mark.parametrize("kind", NEW_LAYER)
def test_new_layers_learn_at_the_heads_rate_and_the_top_pretrained_layer_at_lr(
    masked: dict[str, str], kind: str
) -> None:
    network = build_network(spec(TransformersText, pretrained=masked[kind]), TWO)
    rates = {n: g["lr"] for g in parameter_groups(network, 0.1, 0.0, 7.0, 0.5, set()) for n in g["names"]}
    new = names_of(kind) | {"head.weight", "head.bias"}
    assert {n for n, r in rates.items() if r == pytest.approx(0.7)} == new
    assert new == set(network.new_parameters())
    layers = [r for _, names in network.layers() if (r := {rates[n] for n in names if n not in new})]
    found = [min(r) for r in layers]
    assert found == pytest.approx([0.1 * 0.5 ** (len(layers) - 1 - i) for i in range(len(layers))])


@pytest.mark.parametrize("kind", NEW_LAYER)
def test_two_seeds_have_one_teacher_with_one_hash(masked: dict[str, str], kind: str) -> None:
    modules = [tuned(DistillSFT, masked[kind], seed=seed)[0] for seed in (0, 1)]
    teachers = [m.teacher for m in modules]
    assert teachers[0] is not None and teachers[1] is not None
    assert teachers[0].hash == teachers[1].hash
    one, other = (t.network.state_dict() for t in teachers if t is not None)
    different = [n for n in one if not torch.equal(one[n], other[n])]
    assert not different, f"the teacher holds random tensors: {different}"
    filled = build_network(spec(TransformersText, pretrained=masked[kind]), TWO).shared_parameters()
    assert all(torch.equal(one[n], p) for n, p in filled.items()), "the teacher is not the pretrained network"


def texts(network: Any) -> dict[str, Tensor]:
    batch = network.tokenizer(SENTENCES[:5], padding=True, return_tensors="pt")
    return {n: batch[n] for n in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("kind", NEW_LAYER)
def test_a_features_anchor_compares_the_last_pretrained_features(masked: dict[str, str], kind: str) -> None:
    """Second opinion: transformers' own encoder, whose vector of the first token goes into each of the three layers."""
    from transformers import AutoModel

    module, recorder, _ = tuned(DistillSFT, masked[kind])
    assert module.on == "features"  # type: ignore[attr-defined]
    assert recorder.logged[0]["train/loss_anchor"] == pytest.approx(0.0, abs=1e-9)
    assert recorder.logged[-1]["train/loss_anchor"] > 0
    network = build_network(spec(TransformersText, pretrained=masked[kind]), TWO).eval()
    x = texts(network)
    expected = AutoModel.from_pretrained(masked[kind]).eval()(**x).last_hidden_state[:, 0]
    output = network(x)
    assert not network.pretrained_features and network.pretrained_below_new
    torch.testing.assert_close(output.pretrained_features, expected, rtol=1e-5, atol=1e-6)
    output.pretrained_features.square().sum().backward()
    assert all(p.grad is None for p in network.new_parameters().values()), "the anchor looks through a random layer"


def test_what_is_wholly_pretrained_has_its_own_features(pretrained: str) -> None:
    network = build_network(pretrained_mlp(pretrained), TaskInfo("classification", 5))
    output = network({"image": torch.rand(3, 1, 8, 8)})
    assert network.pretrained_features and output.below_new is None
    assert output.pretrained_features is output.features
    assert not build_network(pretrained_mlp(None), TaskInfo("classification", 5)).pretrained_features


@pytest.fixture
def bottomless(pretrained_norms: str, tmp_path: Path) -> str:
    """Weights whose first layer is missing: all above it was made for other features."""
    state = load_file(f"{pretrained_norms}/model.safetensors")
    save_file({n: v for n, v in state.items() if not n.startswith("encoder.1.")}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(Path(pretrained_norms, "config.json").read_text())
    return str(tmp_path)


def test_nothing_is_compared_above_a_random_layer(bottomless: str) -> None:
    with refused("model.on", "features", bottomless, "(1)") as error:
        fit(DistillSFT(spec(NormNet, pretrained=bottomless)), digits(), max_steps=1)
    assert "\n" not in str(error.value)
    module = L2SPSFT(spec(NormNet, pretrained=bottomless))
    values = fit(module, digits(), max_epochs=1).callback_metrics
    assert not {"drift/features_cka", "drift/kl", "retention/agreement"} & values.keys()
    assert values["drift/weights_l2"] > 0
    assert set(module.new()) == {"encoder.1.weight", "head.weight"}  # type: ignore[attr-defined]
    assert module.network is not None and module.network.source_head is None
    assert any("output layer is not kept" in line for line in module.network.report.lines())


def test_statistics_that_pretrained_did_not_fill_are_new(pretrained_norms: str, tmp_path: Path) -> None:
    state = load_file(f"{pretrained_norms}/model.safetensors")
    save_file({n: v for n, v in state.items() if "running" not in n}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(Path(pretrained_norms, "config.json").read_text())
    network = build_network(spec(NormNet, pretrained=str(tmp_path)), TaskInfo("classification", 5))
    assert network.fresh == {"2.running_mean", "2.running_var"}
    assert not network.pretrained_features and network.source_head is None
    assert len(network.shared_parameters()) == len(network.encoder_parameters())


# ---- language models, whose head is pretrained too ----


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_folder(tmp_path_factory.mktemp("llama"), "llama", "lm")


def test_a_pretrained_language_head_is_no_new_layer(llama: str) -> None:
    network = build_network(spec(TransformersLM, pretrained=llama), TaskInfo("causal_lm", 0))
    assert "head.weight" in network.shared_parameters(), "the test needs a head that is not tied"
    with refused("model.head_lr_factor", 20):
        parameter_groups(network, 0.1, 0.0, 20.0, 1.0, set())
    rates = {n: g["lr"] for g in parameter_groups(network, 0.1, 0.0, 1.0, 0.5, set()) for n in g["names"]}
    assert rates["head.weight"] == 0.1 > rates["encoder.embed_tokens.weight"]


def test_a_language_head_that_the_weights_lack_is_new(llama: str, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(llama).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path)
    network = build_network(spec(TransformersLM, pretrained=str(tmp_path)), TaskInfo("causal_lm", 0))
    assert set(network.new_parameters()) == {"head.weight"} and network.pretrained_features
    assert not network.shares_outputs and any("output layer is new" in line for line in network.report.lines())
    rates = {n: g["lr"] for g in parameter_groups(network, 0.1, 0.0, 20.0, 1.0, set()) for n in g["names"]}
    assert rates["head.weight"] == 2.0 and set(rates.values()) == {0.1, 2.0}


@pytest.mark.parametrize("head", ["masked", "sequence"])
def test_what_stands_on_the_base_model_is_its_top_also_where_it_is_defined_first(tmp_path: Path, head: str) -> None:
    """transformers defines the dense layer of XLM-RoBERTa's classifier before the encoder below it."""
    folder = tiny_folder(tmp_path / "net", "xlm-roberta", head)
    network = build_network(spec(TransformersText, pretrained=folder), TWO)
    layers = [name for name, _ in network.layers()]
    assert "embeddings" in layers[0] and "classifier" in layers[-1], layers
    assert network.pretrained_below_new, "its features can be compared below the new layer"
    frozen = frozen_names(network, {"bottom_layers": 1})
    assert frozen and all(n.startswith("encoder.roberta.embeddings") for n in frozen), frozen[:3]


def test_weights_with_more_layers_than_the_network_are_refused(tmp_path: Path) -> None:
    """Else the source head would be asked about the features of a layer that it never saw."""
    MLP(TWO, in_features=64, hidden=[16, 16]).save_pretrained(str(tmp_path))
    with refused("network.pretrained", tmp_path / "model.safetensors", "(2, ", "encoder.4."):
        MLP(TWO, in_features=64, hidden=[16], pretrained=str(tmp_path))


def test_a_note_on_what_was_loaded_is_said_once(masked: dict[str, str]) -> None:
    lines = build_network(spec(TransformersText, pretrained=masked["bert"]), TWO).report.lines()
    assert len(lines) == len(set(lines)) and any("new inside the encoder" in line for line in lines), lines
