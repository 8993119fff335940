"""LoRA by itself: what it adapts, that it is nothing at the start, and that an export is a plain network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules.teacher import Teacher
from sft_lightning.networks import (
    LSTM,
    MLP,
    LeNet,
    LoRA,
    Network,
    Timm,
    Torchvision,
    TransformersImage,
    TransformersLM,
    TransformersSeq2Seq,
    TransformersText,
    build_network,
    spec,
)
from sft_lightning.networks.transforms import apply_transforms
from tests.networks.tiny import tiny_folder
from tests.refused import refused

pytest.importorskip("peft", reason="the extra [lora] is not installed")
TASK = TaskInfo("classification", 3)
TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def lora(**arguments: Any) -> dict[str, Any]:
    return spec(LoRA, **arguments)  # type: ignore[arg-type]


def image(size: int, channels: int = 3) -> dict[str, Tensor]:
    return {"image": torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(1))}


def words() -> dict[str, Tensor]:
    ids = torch.arange(5, 25).reshape(4, 5)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def save(network: dict[str, Any], folder: Path, task: TaskInfo = TASK) -> str:
    torch.manual_seed(0)
    build_network(network, task).save_pretrained(str(folder))
    return str(folder)


CASES: dict[str, tuple[Any, Any, Any]] = {
    "MLP": (lambda f: save(spec(MLP, in_features=12), f), lambda p: spec(MLP, in_features=12, pretrained=p), image(2)),
    "LeNet": (lambda f: save(spec(LeNet), f), lambda p: spec(LeNet, pretrained=p), image(32)),
    "LeNet's convolutions": (lambda f: save(spec(LeNet), f), lambda p: spec(LeNet, pretrained=p), image(32)),
    "BERT": (
        lambda f: tiny_folder(f, "bert", "sequence"),
        lambda p: spec(TransformersText, pretrained=p),
        words(),
    ),
    "BERT, mean of tokens": (
        lambda f: tiny_folder(f, "bert", "none"),
        lambda p: spec(TransformersText, pretrained=p, pooling="mean"),
        words(),
    ),
    "GPT-2, weights stored transposed and tied": (
        lambda f: tiny_folder(f, "gpt2", "lm"),
        lambda p: spec(TransformersLM, pretrained=p),
        words(),
    ),
    "Llama": (lambda f: tiny_folder(f, "llama", "lm"), lambda p: spec(TransformersLM, pretrained=p), words()),
    "T5, scaled and tied": (
        lambda f: tiny_folder(f, "t5", "seq2seq"),
        lambda p: spec(TransformersSeq2Seq, pretrained=p),
        {**words(), "target_ids": words()["input_ids"][:, :3]},
    ),
    "ViT of transformers": (
        lambda f: save(
            spec(TransformersImage, config={"model_type": "vit", "image_size": 32, "patch_size": 8, **TINY_VIT}), f
        ),
        lambda p: spec(TransformersImage, pretrained=p),
        image(32),
    ),
    "ViT of timm": (
        lambda f: save(spec(Timm, name="test_vit"), f),
        lambda p: spec(Timm, name="test_vit", pretrained=p),
        image(160),
    ),
    "convolutions of timm": (
        lambda f: save(spec(Timm, name="test_efficientnet"), f),
        lambda p: spec(Timm, name="test_efficientnet", pretrained=p),
        image(64),
    ),
    "ResNet of torchvision": (
        lambda f: save(spec(Torchvision, name="resnet18"), f),
        lambda p: spec(Torchvision, name="resnet18", pretrained=p),
        image(32),
    ),
}
TARGETS = {
    "LeNet's convolutions": [r"^\d+$"],
    "convolutions of timm": ["conv"],
    "ResNet of torchvision": ["conv", "downsample"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root, made = tmp_path_factory.mktemp("lora"), {}
    for name, (write, _, _) in CASES.items():
        folder = root / "".join(c for c in name if c.isalnum())
        folder.mkdir()
        made[name] = str(write(folder))
    return made


def built(case: str, folders: dict[str, str], **arguments: Any) -> tuple[Network, Teacher]:
    """The network with LoRA, its pretrained copy made before, both in evaluation mode."""
    given = CASES[case][1](folders[case])
    given["init_args"]["transforms"] = [lora(**{"target_modules": TARGETS.get(case, "all-linear"), **arguments})]
    task = (
        TaskInfo("causal_lm", 0)
        if given["class_path"].endswith("LM")
        else TaskInfo("seq2seq", 0)
        if given["class_path"].endswith("Seq2Seq")
        else TASK
    )
    network = build_network(given, task)
    teacher = Teacher(network)
    apply_transforms(network)
    return network.eval(), teacher


def moved(network: Network, size: float = 0.3) -> Network:
    """Adapters as if they had learned."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in network.adapter_parameters().values():
            parameter.add_(size * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("case", CASES)
def test_at_the_start_the_network_is_its_teacher_bit_for_bit(folders: dict[str, str], case: str) -> None:
    network, teacher = built(case, folders)
    x = CASES[case][2]
    now, before = network(x), teacher(x)
    assert torch.equal(now.features, before.features)
    if network.source_head is not None:
        assert torch.equal(now.source_logits, before.source_logits)


@pytest.mark.parametrize("case", CASES)
def test_gradients_reach_every_adapter_and_new_layer_and_nothing_else(folders: dict[str, str], case: str) -> None:
    network, _ = built(case, folders)
    moved(network)(CASES[case][2]).logits.square().sum().backward()
    reached = {n for n, p in network.named_parameters() if p.grad is not None}
    assert reached == network.adapter_parameters().keys() | network.new_parameters().keys()
    assert {n for n, p in network.named_parameters() if p.requires_grad} == reached


@pytest.mark.parametrize("case", CASES)
def test_the_three_sets_and_the_source_head_are_all_parameters_once(folders: dict[str, str], case: str) -> None:
    network, teacher = built(case, folders)
    sets = [network.shared_parameters(), network.new_parameters(), network.adapter_parameters()]
    head = {n for n, _ in network.named_parameters() if n.startswith("source_head.")}
    named = [n for s in sets for n in s] + sorted(head)
    assert sorted(named) == sorted(n for n, _ in network.named_parameters())
    assert network.shared_weights().keys() == teacher.initial.keys()


@pytest.mark.parametrize("case", CASES)
def test_the_export_is_a_plain_network_that_computes_the_same(
    folders: dict[str, str], case: str, tmp_path: Path
) -> None:
    network, _ = built(case, folders, r=4, alpha=6.0)
    x = CASES[case][2]
    expected, kept = moved(network)(x), {n: v.clone() for n, v in network.state_dict().items() if isinstance(v, Tensor)}
    network.save_pretrained(str(tmp_path / "export"))
    again = build_network(CASES[case][1](str(tmp_path / "export")), network.task).eval()
    assert again.fresh == set() and not again.adapters
    difference = (again(x).features - expected.features).abs().max() / expected.features.abs().max()
    assert difference < 1e-5, f"the export's features differ by {difference:.1e}"
    after = network.state_dict()
    assert all(torch.equal(v, after[n]) for n, v in kept.items()), "the export has changed the network"
    assert torch.equal(network(x).features, expected.features)


@pytest.mark.parametrize("case", ["BERT", "GPT-2, weights stored transposed and tied", "MLP"])
def test_peft_reads_the_adapter_alone_onto_the_pretrained_encoder(
    folders: dict[str, str], case: str, tmp_path: Path
) -> None:
    from peft import PeftModel

    network, teacher = built(case, folders, r=4, alpha=6.0)
    moved(network).save_pretrained(str(tmp_path / "export"))
    plain = teacher.network
    plain.encoder = PeftModel.from_pretrained(plain.encoder, str(tmp_path / "export" / "adapter")).base_model.model
    x = CASES[case][2]
    assert torch.allclose(plain.eval()(x).features, network(x).features, atol=1e-6)


def test_transformers_loads_the_merged_export_without_the_adapter(folders: dict[str, str], tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    network, _ = built("BERT", folders)
    x, folder = CASES["BERT"][2], str(tmp_path / "export")
    moved(network).save_pretrained(folder)
    logits = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**x).logits
    assert torch.allclose(logits, network(x).logits, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_layers_are_those_of_the_pretrained_network_with_adapters_in_them(folders: dict[str, str], case: str) -> None:
    network, teacher = built(case, folders)
    now, before = network.layers(), teacher.network.layers()
    assert [n for n, _ in now] == [n for n, _ in before]
    assert [[network.renamed.get(n, n) for n in names if "lora_" not in n] for _, names in now] == [
        n for _, n in before
    ]
    assert sorted(n for _, names in now for n in names) == sorted(network.encoder_parameters())


# ---- golden ----


class Hand(nn.Module):
    """x·Wᵀ + b + s·(x·Aᵀ)·Bᵀ, in as many words."""

    def __init__(self, layer: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.w, self.bias, self.scale = layer.weight.detach(), layer.bias.detach(), scale
        self.a, self.b = nn.Parameter(a.clone()), nn.Parameter(b.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w.T + self.bias + self.scale * (x @ self.a.T) @ self.b.T


@pytest.mark.parametrize(("rslora", "scale"), [(False, 6.0 / 4), (True, 6.0 / 2)])
def test_values_and_gradients_are_those_of_ten_lines_by_hand(
    folders: dict[str, str], rslora: bool, scale: float
) -> None:
    network, _ = built("MLP", folders, r=4, alpha=6.0, use_rslora=rslora)
    moved(network)
    layer = network.encoder.get_submodule("1")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    hand = Hand(layer.base_layer, a.detach(), b.detach(), scale)
    x = torch.randn(5, 12)
    mine, theirs = layer(x), hand(x)
    assert torch.allclose(mine, theirs, atol=1e-6)
    mine.square().mean().backward()
    theirs.square().mean().backward()
    assert torch.allclose(a.grad, hand.a.grad, rtol=1e-4, atol=1e-6)
    assert torch.allclose(b.grad, hand.b.grad, rtol=1e-4, atol=1e-6)
    adapter = network.adapters[0]
    assert torch.allclose(adapter.delta(), scale * hand.b @ hand.a, atol=1e-6)
    assert torch.allclose(network.shared_weights()["encoder.1.weight"], hand.w + scale * hand.b @ hand.a, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_delta_is_what_the_merged_weight_gained_and_scales(folders: dict[str, str], case: str) -> None:
    network, teacher = built(case, folders)
    moved(network)
    adapter = network.adapters[-1]
    before, delta = teacher.initial[adapter.weight], adapter.delta().detach()
    gained = network.shared_weights()[adapter.weight] - before
    assert delta.shape == before.shape and torch.allclose(gained, delta, atol=1e-6) and delta.abs().max() > 0
    adapter.scale(0.25)
    assert torch.allclose(adapter.delta(), 0.25 * delta, atol=1e-7)


# ---- what is adapted ----


def adapted(network: Network) -> list[str]:
    return [a.weight.removeprefix("encoder.").removesuffix(".weight") for a in network.adapters]


def test_all_linear_layers_of_the_encoder_are_adapted_and_no_output_layer(folders: dict[str, str]) -> None:
    assert adapted(built("MLP", folders)[0]) == ["1"]
    bert = adapted(built("BERT", folders)[0])
    assert "bert.pooler.dense" in bert and any(n.endswith("attention.self.query") for n in bert)
    assert not any("embeddings" in n or "classifier" in n for n in bert)
    assert all(n.startswith("h.") for n in adapted(built("GPT-2, weights stored transposed and tied", folders)[0]))


def test_regular_expressions_choose_layers_by_their_names(folders: dict[str, str]) -> None:
    network, _ = built("BERT", folders, target_modules=["query", "value"])
    assert len(adapted(network)) == 2 * len(network.encoder.bert.encoder.layer)
    assert {n.rpartition(".")[2] for n in adapted(network)} == {"query", "value"}


def test_embeddings_can_be_adapted_where_no_output_layer_shares_them(folders: dict[str, str]) -> None:
    network, teacher = built("BERT", folders, target_modules=["word_embeddings"])
    x = CASES["BERT"][2]
    assert torch.equal(network(x).features, teacher(x).features)
    moved(network)(x).logits.square().sum().backward()
    assert all(p.grad.any() for p in network.adapter_parameters().values())
    with refused("network.transforms.LoRA.target_modules", "wte", "shares"):
        built("GPT-2, weights stored transposed and tied", folders, target_modules=["wte"])


def test_layers_whose_weights_another_module_reads_past_the_adapter_are_left_out(tmp_path: Path) -> None:
    """torch's MultiheadAttention takes `out_proj.weight` itself: an adapter there would be trained, and never computed."""
    folder = save(spec(Torchvision, name="vit_b_32", image_size=32), tmp_path / "vit")
    network = build_network(
        spec(Torchvision, name="vit_b_32", image_size=32, pretrained=folder, transforms=[lora(r=2)]), TASK
    )
    apply_transforms(network)
    assert len(adapted(network)) == 24 and not any("self_attention" in n for n in adapted(network))
    assert any("MultiheadAttention" in note for note in network.report.notes)
    network.train()(image(32)).logits.sum().backward()
    assert all(p.grad is not None for p in network.adapter_parameters().values())
    past = [lora(target_modules=["out_proj"])]
    again = build_network(spec(Torchvision, name="vit_b_32", image_size=32, pretrained=folder, transforms=past), TASK)
    with refused("network.transforms.LoRA.target_modules", "out_proj", "MultiheadAttention"):
        apply_transforms(again)


def test_layers_that_pretrained_did_not_fill_learn_whole(tmp_path: Path) -> None:
    deep = {"in_features": 12, "hidden": [8, 8, 8]}
    folder = save(spec(MLP, **deep), tmp_path / "deep")
    state = load_file(f"{folder}/model.safetensors")
    save_file({n: v for n, v in state.items() if not n.startswith("encoder.7.")}, f"{folder}/model.safetensors")
    network = build_network(spec(MLP, **deep, pretrained=folder, transforms=[lora()]), TASK)
    apply_transforms(network)
    new = {"encoder.7.weight", "encoder.7.bias", "head.weight", "head.bias"}
    assert network.new_parameters().keys() == new and all(p.requires_grad for p in network.new_parameters().values())
    assert adapted(network) == ["1", "4"]


# ---- refused ----

REFUSED: dict[str, tuple[dict[str, Any], str, list[object]]] = {
    "no rank": ({"r": 0}, ".LoRA.r", [0]),
    "no scale": ({"alpha": 0.0}, ".LoRA.alpha", [0.0]),
    "all dropped": ({"dropout": 1.0}, ".LoRA.dropout", ["[0, 1)", 1.0]),
    "a single name": ({"target_modules": "query"}, ".LoRA.target_modules", ["all-linear", "'query'"]),
    "no names": ({"target_modules": []}, ".LoRA.target_modules", ["all-linear", []]),
    "a name that nothing has": ({"target_modules": ["no_such"]}, ".LoRA.target_modules", ["'no_such'", "first is 1,"]),
    "no regular expression": ({"target_modules": ["("]}, ".LoRA.target_modules", ["'('", "regular expression"]),
    "an unknown argument": ({"rank": 4}, "", ["LoRA", "'rank'", "target_modules"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_name(folders: dict[str, str], what: str) -> None:
    arguments, key, values = REFUSED[what]
    with refused(f"network.transforms{key}", *values):
        built("MLP", folders, **arguments)


@pytest.mark.parametrize(
    ("given", "key", "values"),
    [
        ([{"class_path": "Lora"}], "network.transforms", ["'Lora'", "did you mean 'LoRA'"]),
        ([{"r": 8}], "network.transforms", ["{'r': 8}", "class_path"]),
        ([{"class_path": "torch.nn.Linear"}], "network.transforms", ["'torch.nn.Linear'", "LoRA"]),
        (["LoRA", "LoRA"], "network.transforms", ["LoRA", "adapters"]),
    ],
)
def test_specifications_that_name_no_transform_are_refused(
    folders: dict[str, str], given: Any, key: str, values: list[str]
) -> None:
    with refused(key, *values):
        apply_transforms(build_network(spec(MLP, in_features=12, pretrained=folders["MLP"], transforms=given), TASK))


def test_a_network_from_scratch_and_one_without_linear_layers_are_refused(tmp_path: Path) -> None:
    with refused("network.transforms", "LoRA", "network.init_args.pretrained"):
        apply_transforms(build_network(spec(MLP, in_features=12, transforms=[lora()]), TASK))
    network = build_network(spec(LSTM, vocabulary_size=20, embedding_dim=4, hidden=4), TASK)
    network.tokenizer.set_words(["a", "b"])
    network.save_pretrained(str(tmp_path))
    again = spec(LSTM, vocabulary_size=20, embedding_dim=4, hidden=4, pretrained=str(tmp_path), transforms=[lora()])
    with refused("network.transforms.LoRA.target_modules", "all-linear", "LSTM", "Embedding"):
        apply_transforms(build_network(again, TASK))


def test_without_peft_one_line_names_the_extra(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sft_lightning.networks.lora.find_spec", lambda name: None)
    with refused("network.transforms.LoRA", "sft-lightning[lora]"):
        built("MLP", folders)


def test_the_adapter_lies_apart_from_the_export_it_is_merged_into(folders: dict[str, str], tmp_path: Path) -> None:
    network, _ = built("MLP", folders, r=4)
    network.save_pretrained(str(tmp_path))
    assert not any("lora" in n for n in load_file(tmp_path / "model.safetensors"))
    assert "transforms" not in json.loads((tmp_path / "config.json").read_text())["sft_lightning"]["init_args"]
    assert all("lora" in n for n in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
