"""Image networks of transformers: the same numbers as transformers' own, and genuine transformers folders out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTModel

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import Digits
from sft_lightning.networks import TransformersImage
from tests.networks.vision import TASK, check_layers, check_round_trip, images, logits, out, pickled_code, shaken
from tests.refused import refused
from tests.support import settle

TINY: dict[str, dict[str, Any]] = {
    "vit": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    },
    "deit": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    },
    "dinov2": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8},
    "beit": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    },
    "convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "swin": {
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 2,
        "image_size": 32,
        "patch_size": 4,
    },
    "mobilenet_v2": {"depth_multiplier": 0.1, "image_size": 32},
    "efficientnet": {
        "image_size": 32,
        "width_coefficient": 0.1,
        "depth_coefficient": 0.1,
        "hidden_dim": 128,
        "num_hidden_layers": 7,
        "dropout_rate": 0.1,
    },
}


def config(kind: str) -> dict[str, Any]:
    return {"model_type": kind, **TINY[kind]}


def genuine(kind: str, folder: Path, labels: tuple[str, ...] = ("l", "m", "n", "o", "p"), **processor: Any) -> Any:
    """A model of transformers' own, saved as its own tools save it."""
    from transformers import CONFIG_MAPPING

    torch.manual_seed(0)
    names = dict(enumerate(labels))
    made = CONFIG_MAPPING[kind](
        **TINY[kind], id2label=names, label2id={v: k for k, v in names.items()}, architectures=[]
    )
    model = shaken(AutoModelForImageClassification.from_config(made))
    model.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return AutoModelForImageClassification.from_pretrained(folder)


@pytest.mark.parametrize("kind", list(TINY))
def test_one_pass_gives_logits_features_and_what_the_original_model_says(kind: str, tmp_path: Path) -> None:
    model = genuine(kind, tmp_path)
    network = TransformersImage(TASK, pretrained=str(tmp_path))
    said = out(network, images(32))
    assert said.logits.shape == (2, 3)
    assert said.features.shape == (2, network.head.in_features)
    assert torch.equal(said.source_logits, logits(model, images(32)))
    assert network.source_labels == ["l", "m", "n", "o", "p"]
    assert not network.report.missing and not network.report.unexpected and not network.fresh
    check_layers(network)
    assert len(network.layers()) > 2


@pytest.mark.parametrize("kind", ["vit", "resnet", "swin"])
def test_an_export_is_a_folder_that_transformers_loads_with_equal_logits(kind: str, tmp_path: Path) -> None:
    network = shaken(TransformersImage(TASK, config=config(kind)))
    again = check_round_trip(network, lambda t, p: TransformersImage(t, pretrained=p), tmp_path, images(32))
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(logits(theirs, images(32)), out(network, images(32)).logits)
    assert theirs.config.id2label == {0: "ant", 1: "bee", 2: "cat"} and theirs.config.label2id["cat"] == 2
    about = json.loads((tmp_path / "config.json").read_text())["sft_lightning"]
    assert about["network"].endswith("TransformersImage") and about["task"] == TASK.to_dict()
    again.save_pretrained(str(tmp_path / "second"))
    second = AutoModelForImageClassification.from_pretrained(tmp_path / "second")
    assert second.config.id2label == {0: "yes", 1: "no"}


def test_exporting_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network = TransformersImage(TASK, config=config("vit"))
    before, names = out(network, images(32)), list(network.state_dict())
    settings = network.encoder.config.to_dict()
    network.save_pretrained(str(tmp_path))
    assert torch.equal(out(network, images(32)).features, before.features)
    assert list(network.state_dict()) == names and network.encoder.config.to_dict() == settings


def test_the_exported_processor_prepares_images_as_training_did(tmp_path: Path) -> None:
    data = Digits(classes=[0, 1, 2], image_size=32)
    data.setup()
    assert data.task_info is not None
    network = TransformersImage(data.task_info, config=config("vit"))
    settle(data, network)
    network.save_pretrained(str(tmp_path))
    ours = data.device_transform(next(iter(data.loader("test", 0, 1))))["x"]["image"][0]
    split = data.splits["test"]
    pixels = split.samples.read(int(split.rows[0]))[0].numpy()  # type: ignore[attr-defined]
    theirs = AutoImageProcessor.from_pretrained(tmp_path)(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][
        0
    ]
    assert theirs.shape == ours.shape
    assert float((theirs - ours).abs().mean()) < 0.01


def test_the_processor_of_a_folder_says_size_and_normalisation(tmp_path: Path) -> None:
    genuine("resnet", tmp_path, size={"shortest_edge": 48}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    spec = TransformersImage(TASK, pretrained=str(tmp_path)).input_spec
    assert (spec.size, spec.channels) == ((48, 48), 3)
    assert (spec.mean, spec.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    cropped = {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 40, "width": 40}}
    genuine("resnet", tmp_path, **cropped, do_normalize=False)
    spec = TransformersImage(TASK, pretrained=str(tmp_path)).input_spec
    assert (spec.size, spec.mean, spec.std) == ((40, 40), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_images_of_another_size_interpolate_the_positions(tmp_path: Path) -> None:
    model = genuine("vit", tmp_path)
    said = out(TransformersImage(TASK, pretrained=str(tmp_path)), images(48)).source_logits
    with torch.no_grad():
        assert torch.equal(said, model.eval()(images(48), interpolate_pos_encoding=True).logits)


def test_a_model_without_a_classifier_gives_no_source_head(tmp_path: Path) -> None:
    body = shaken(ViTModel(ViTConfig(**TINY["vit"]), add_pooling_layer=False))
    body.save_pretrained(tmp_path)
    network = TransformersImage(TASK, pretrained=str(tmp_path))
    assert network.source_head is None and not network.fresh and not network.report.missing
    ours = network.encoder.state_dict()
    assert all(torch.equal(ours[f"vit.{n}"], v) for n, v in body.state_dict().items())


def test_what_is_missing_and_unexpected_is_reported_by_name(tmp_path: Path) -> None:
    genuine("vit", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    name = next(n for n in state if n.endswith("layernorm.weight"))
    state["extra.weight"] = state.pop(name)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    network = TransformersImage(TASK, pretrained=str(tmp_path))
    assert network.report.unexpected == ["extra.weight"]
    assert network.report.missing == [name] and network.fresh == {name}
    assert f"encoder.{name}" in network.new_parameters() and f"encoder.{name}" not in network.shared_parameters()


def test_a_state_dict_alone_needs_a_configuration(tmp_path: Path) -> None:
    model = genuine("vit", tmp_path)
    file = str(tmp_path / "model.safetensors")
    with refused("network.pretrained", file, "config.json", "network.init_args.config"):
        TransformersImage(TASK, pretrained=file)
    network = TransformersImage(TASK, pretrained=file, config=str(tmp_path))
    assert torch.equal(out(network, images(32)).source_logits, logits(model, images(32)))


def test_weights_stored_in_half_precision_are_trained_in_full(tmp_path: Path) -> None:
    genuine("vit", tmp_path).to(torch.bfloat16).save_pretrained(tmp_path)
    network = TransformersImage(TASK, pretrained=str(tmp_path))
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_gradient_checkpointing_changes_no_gradient() -> None:
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = TransformersImage(TASK, config=config("vit"), gradient_checkpointing=checkpointing).train()
        network({"image": images(32)}).logits.sum().backward()
        grads.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
        assert network.encoder.is_gradient_checkpointing is checkpointing
    assert grads[0].keys() == grads[1].keys()
    assert all(torch.allclose(grads[0][n], grads[1][n], atol=1e-6) for n in grads[0])


def test_dropout_is_set_everywhere_and_silent_in_evaluation() -> None:
    network = TransformersImage(TASK, config=config("vit"), dropout=0.5)
    x = {"image": images(32)}
    assert not torch.equal(network.train()(x).features, network(x).features)
    assert torch.equal(network.eval()(x).features, network(x).features)


def test_a_regression_head_is_exported_as_one(tmp_path: Path) -> None:
    network = TransformersImage(TaskInfo("regression", 1), config=config("vit"))
    network.save_pretrained(str(tmp_path))
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert theirs.config.problem_type == "regression" and theirs.config.num_labels == 1
    assert np.allclose(logits(theirs, images(32)), out(network, images(32)).logits)


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)

    def check(key: str, *values: object, **options: Any) -> None:
        with refused(f"network.{key}", *values) as error:
            TransformersImage(TASK, **options)
        assert "\n" not in str(error.value)

    def check_folder(*values: object) -> None:
        check("pretrained", *values, pretrained=str(tmp_path))

    check("pretrained", "TransformersImage", "network.init_args.config")
    check("pretrained", "google/vit-base-patch16-224", "hub", pretrained="google/vit-base-patch16-224")
    check("config", "hub", config="google/vit-base-patch16-224")
    check("config", "'vitt'", "did you mean 'vit'?", config={"model_type": "vitt"})
    misspelt = {"model_type": "vit", "hiden_size": 3}
    check("config", "'hiden_size'", "did you mean 'hidden_size'?", config=misspelt)
    check("config", "BertConfig", "TransformersImage", config={"model_type": "bert"})
    check("pretrained", "./nowhere", pretrained="./nowhere")
    genuine("vit", tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    check_folder(tmp_path, "truncated")
    weights.unlink()
    check_folder(tmp_path, "add model.safetensors")
    torch.save({"a": pickled_code()}, tmp_path / "pytorch_model.bin")
    check_folder(tmp_path, "pickled")
    (tmp_path / "pytorch_model.bin").unlink()
    save_file({"a": torch.zeros(1)}, weights, metadata={"format": "pt"})
    check_folder(tmp_path, " 0 ", "ViTForImageClassification")
    weights.write_bytes(whole)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"intermediate_size": 48}))
    check_folder(tmp_path, "vit.layers.0.mlp.fc1.bias [32]", "[48]")
    foreign = {"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(settings | foreign))
    check_folder(tmp_path, "network.init_args.trust_remote_code")
    (tmp_path / "config.json").write_text("{")
    check_folder(tmp_path / "config.json", "line 1")
