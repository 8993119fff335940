"""Networks of timm: the same numbers as timm's own, in our interface."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from sft_lightning.networks import Timm
from tests.networks.vision import NEXT, TASK, check_layers, check_round_trip, images, logits, out, pickled_code, shaken
from tests.refused import refused

SMALL = [
    *("test_byobnet", "test_coatnet", "test_convnext", "test_convnext2", "test_efficientnet", "test_efficientnet_gn"),
    *("test_mambaout", "test_maxvit", "test_nfnet", "test_resnet", "test_vit", "test_vit2", "test_vit4"),
]


def original(name: str, classes: int = 7, **options: Any) -> Any:
    torch.manual_seed(0)
    return shaken(timm.create_model(name, num_classes=classes, **options))


def saved(model: Any, path: Path) -> str:
    save_file(model.state_dict(), path)
    return str(path)


def side(network: Timm) -> int:
    return network.built_for[0] if network.built_for else 64


@pytest.mark.parametrize("name", SMALL)
def test_one_pass_gives_logits_features_and_what_the_original_model_says(name: str, tmp_path: Path) -> None:
    model = original(name)
    network = Timm(TASK, name, pretrained=saved(model, tmp_path / "model.safetensors"))
    x = images(side(network))
    said = out(network, x)
    assert said.logits.shape == (2, 3)
    assert said.features.shape == (2, network.head.in_features)
    assert torch.equal(said.source_logits, logits(model, x))
    assert not network.report.missing and not network.report.unexpected and not network.fresh
    assert network.report.loaded == len(model.state_dict())
    check_layers(network)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_an_export_loads_as_it_was(name: str, tmp_path: Path) -> None:
    network = shaken(Timm(TASK, name))
    check_round_trip(network, lambda t, p: Timm(t, name, pretrained=p), tmp_path, images(side(network)))


def test_an_export_keeps_the_size_it_was_built_for_and_can_be_given_another(tmp_path: Path) -> None:
    network = shaken(Timm(TASK, "test_vit", image_size=32))
    again = check_round_trip(network, lambda t, p: Timm(t, "test_vit", pretrained=p), tmp_path, images(32))
    assert again.input_spec.size == (32, 32)
    larger = Timm(NEXT, "test_vit", pretrained=str(tmp_path), image_size=64)
    assert out(larger, images(64)).source_logits.shape == (2, 3)


def test_a_pretrained_transformer_of_another_size_interpolates_its_positions(tmp_path: Path) -> None:
    model = original("test_vit")
    network = Timm(TASK, "test_vit", pretrained=saved(model, tmp_path / "model.safetensors"), image_size=96)
    model.set_input_size((96, 96))
    assert torch.equal(out(network, images(96)).source_logits, logits(model, images(96)))


def test_images_of_another_size_than_the_network_is_built_for_are_one_line() -> None:
    with refused("network.image_size", "test_vit", 160, "set it to 32"):
        out(Timm(TASK, "test_vit"), images(32))


def test_the_new_head_starts_small_and_the_source_head_stands_still(tmp_path: Path) -> None:
    network = Timm(TASK, "test_resnet", pretrained=saved(original("test_resnet"), tmp_path / "model.safetensors"))
    network.train()
    assert network.source_head is not None and not network.source_head.training
    assert not any(p.requires_grad for p in network.source_head.parameters())
    assert not network.head.bias.any() and network.head.weight.std() < 0.03
    assert set(network.new_parameters()) == {"head.weight", "head.bias"}
    assert len(network.shared_parameters()) == len(network.encoder_parameters())


def test_without_pretrained_there_is_no_source_head_and_the_data_choose_size_and_normalisation() -> None:
    network = Timm(TASK, "test_resnet")
    spec = network.input_spec
    assert out(network, images()).source_logits is None and network.pretrained is None
    assert (spec.size, spec.channels, spec.mean, spec.std) == (None, 3, None, None)


def test_pretrained_weights_bring_size_and_normalisation(tmp_path: Path) -> None:
    model = original("test_vit")
    spec = Timm(TASK, "test_vit", pretrained=saved(model, tmp_path / "model.safetensors")).input_spec
    assert (spec.size, spec.mean) == ((160, 160), (0.5, 0.5, 0.5))


def test_a_timm_folder_brings_its_own_labels_and_normalisation(tmp_path: Path) -> None:
    model = original("test_resnet", 2)
    saved(model, tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 2, "label_names": ["up", "down"]}
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 48, 48]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"pretrained_cfg": cfg}))
    network = Timm(TASK, "test_resnet", pretrained=str(tmp_path))
    assert network.source_labels == ["up", "down"]
    assert (network.input_spec.size, network.input_spec.mean) == ((48, 48), (0.1, 0.2, 0.3))
    with refused("network.pretrained", tmp_path, "test_resnet", "test_vit"):
        Timm(TASK, "test_vit", pretrained=str(tmp_path))


def test_tensors_of_other_names_are_matched_by_order(tmp_path: Path) -> None:
    model = original("test_efficientnet")
    renamed = {f"blob.{i}": tensor for i, tensor in enumerate(model.state_dict().values())}
    torch.save(renamed, tmp_path / "other.pth")
    network = Timm(TASK, "test_efficientnet", pretrained=str(tmp_path / "other.pth"), match="order")
    assert torch.equal(out(network, images()).source_logits, logits(model, images()))
    with refused("network.pretrained", tmp_path / "other.pth", " 0 ", "match order"):
        Timm(TASK, "test_efficientnet", pretrained=str(tmp_path / "other.pth"))
    with refused("network.pretrained", tmp_path / "other.pth", len(renamed)):
        Timm(TASK, "test_resnet", pretrained=str(tmp_path / "other.pth"), match="order")


def test_what_is_missing_and_unexpected_is_reported_by_name(tmp_path: Path) -> None:
    state = original("test_resnet").state_dict()
    state["extra.weight"] = state.pop("conv1.0.weight").clone()
    save_file(state, tmp_path / "model.safetensors")
    network = Timm(TASK, "test_resnet", pretrained=str(tmp_path / "model.safetensors"))
    assert network.report.missing == ["conv1.0.weight"] and network.report.unexpected == ["extra.weight"]
    assert network.fresh == {"conv1.0.weight"}
    assert "encoder.conv1.0.weight" in network.new_parameters()


def test_a_headless_state_dict_gives_no_source_head(tmp_path: Path) -> None:
    state = {n: v for n, v in original("test_resnet").state_dict().items() if not n.startswith("fc.")}
    save_file(state, tmp_path / "model.safetensors")
    network = Timm(TASK, "test_resnet", pretrained=str(tmp_path / "model.safetensors"))
    assert network.source_head is None and not network.fresh and not network.report.missing


def test_dropout_is_before_the_head_and_not_in_evaluation() -> None:
    torch.manual_seed(0)
    network = Timm(TASK, "test_resnet", dropout=0.5)
    x = {"image": images()}
    share = (network.train()(x).features == 0).float().mean()
    assert 0.3 < share < 0.7
    assert torch.equal(network.eval()(x).features, network(x).features)


def test_the_source_head_is_left_out_where_it_is_not_wanted(tmp_path: Path) -> None:
    path = saved(original("test_resnet"), tmp_path / "model.safetensors")
    assert Timm(TASK, "test_resnet", pretrained=path, keep_source_head=False).source_head is None


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)

    def check(key: str, *values: object, name: str = "test_resnet", **options: Any) -> None:
        with refused(f"network.{key}", *values) as error:
            Timm(TASK, name, **options)
        assert "\n" not in str(error.value)

    check("name", "'resnet81'", "did you mean 'resnet", name="resnet81")
    path = saved(original("test_resnet"), tmp_path / "resnet.safetensors")
    check("pretrained", path, " 0 ", "bn1.num_batches_tracked", "cls_token", name="test_vit", pretrained=path)
    wide = {n: torch.zeros(1) if n == "conv1.0.weight" else v for n, v in original("test_resnet").state_dict().items()}
    save_file(wide, tmp_path / "wide.safetensors")
    wide_file = tmp_path / "wide.safetensors"
    check("pretrained", wide_file, "conv1.0.weight [1]", pretrained=str(wide_file))
    (tmp_path / "cut.safetensors").write_bytes(Path(path).read_bytes()[:5000])
    check("pretrained", tmp_path / "cut.safetensors", pretrained=str(tmp_path / "cut.safetensors"))
    torch.save({"a": pickled_code()}, tmp_path / "code.pth")
    check("pretrained", tmp_path / "code.pth", ".safetensors", pretrained=str(tmp_path / "code.pth"))
    check("pretrained", tmp_path / "none.pth", pretrained=str(tmp_path / "none.pth"))
    for hub_name in (True, "timm/test_resnet.r160_in1k", "hf-hub:timm/test_resnet.r160_in1k"):
        check("pretrained", "test_resnet", "hub", pretrained=hub_name)
    Timm(TASK, "test_resnet").save_pretrained(str(tmp_path / "ours"))
    check("pretrained", "Timm test_resnet", "test_vit", name="test_vit", pretrained=str(tmp_path / "ours"))
    check("dropout", "[0, 1)", 1.5, dropout=1.5)


FAMILIES = [
    *("beit_base_patch16_224", "crossvit_tiny_240", "deit_tiny_distilled_patch16_224", "densenet121", "dla34"),
    *("efficientvit_b0", "hiera_tiny_224", "levit_128s", "mixer_s32_224", "mobilenetv3_small_050", "repvit_m0_9"),
    *("swin_tiny_patch4_window7_224", "tf_efficientnet_lite0", "vgg11", "visformer_tiny", "volo_d1_224"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_a_new_head_and_keeps_a_linear_old_one(name: str, tmp_path: Path) -> None:
    model = original(name)
    network = Timm(TASK, name, pretrained=saved(model, tmp_path / "model.safetensors"))
    x = images(side(network), 1)
    said = out(network, x)
    assert said.logits.shape == (1, 3)
    if said.source_logits is not None:
        assert torch.equal(said.source_logits, logits(model, x))
    assert not network.fresh
    check_layers(network)
