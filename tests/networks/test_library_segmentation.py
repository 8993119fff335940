"""Segmentation networks of torchvision and transformers: the kept source head says what the library's model says."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models
from transformers import AutoModelForSemanticSegmentation, BeitConfig, MobileNetV2Config, SegformerConfig, UperNetConfig

from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import TorchvisionSegmentation, TransformersSegmentation
from sft_lightning.tasks.semantic_segmentation import enlarged
from tests.networks.vision import images, shaken
from tests.refused import refused

CELLS = TaskInfo("semantic_segmentation", 3, ["a", "b", "c"])


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_torchvisions_last_convolutions_are_one_linear_layer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    auxiliary = {"aux_loss": True} if "deeplab" in name else {}
    model: Any = shaken(models.get_model(name, weights=None, weights_backbone=None, num_classes=7, **auxiliary)).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    network = TorchvisionSegmentation(CELLS, name, pretrained=str(tmp_path / "model.safetensors")).eval()
    with torch.no_grad():
        said, theirs = network({"image": images(70)}), model(images(70))["out"]
    assert said.source_logits is not None and said.source_logits.shape[-1] == 7 and not network.fresh
    torch.testing.assert_close(enlarged(said.source_logits, (70, 70)).permute(0, 3, 1, 2), theirs, rtol=1e-4, atol=1e-5)
    assert network.source_task == TaskInfo("semantic_segmentation", 7)
    assert not network.report.missing and network.input_spec.mean == (0.485, 0.456, 0.406)


def test_a_name_that_torchvision_lacks_is_refused_with_the_nearest() -> None:
    with refused("network.name", "'fcn_resnet5'", "'fcn_resnet50'"):
        TorchvisionSegmentation(CELLS, "fcn_resnet5")
    with refused("network.pretrained", "'DEFALT'", "'DEFAULT'"):
        TorchvisionSegmentation(CELLS, "fcn_resnet50", pretrained="DEFALT")


CONFIGS = {
    "segformer": SegformerConfig(
        hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=7
    ),
    "mobilenet": MobileNetV2Config(image_size=64, depth_multiplier=0.1, num_labels=7),
    "beit": BeitConfig(
        image_size=64, patch_size=16, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24,
        out_indices=[1, 2, 3, 4], num_labels=7, pool_scales=[1, 2],
    ),
    "upernet": UperNetConfig(
        backbone_config={
            "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1],
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        hidden_size=8, num_labels=7, auxiliary_channels=4, auxiliary_in_channels=32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_of_transformers_says_what_it_said_and_its_export_is_one(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = shaken(AutoModelForSemanticSegmentation.from_config(CONFIGS[kind])).eval()
    model.save_pretrained(tmp_path / "theirs")
    network = TransformersSegmentation(CELLS, pretrained=str(tmp_path / "theirs")).eval()
    x = images(64)
    with torch.no_grad():
        said, theirs = network({"image": x}), model(pixel_values=x).logits.permute(0, 2, 3, 1)
    assert said.source_logits is not None and not network.fresh
    torch.testing.assert_close(said.source_logits, theirs, rtol=1e-5, atol=1e-6)
    network.save_pretrained(str(tmp_path / "ours"))
    again = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(pixel_values=x).logits.permute(0, 2, 3, 1), said.logits, rtol=1e-5, atol=1e-6)
    assert again.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_pickled_code_in_torchs_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = models.get_model_weights("lraspp_mobilenet_v3_large")["DEFAULT"]
    cached = tmp_path / "torch/hub/checkpoints" / Path(weights.url).name
    cached.parent.mkdir(parents=True)
    torch.save(Fraction(1, 2), cached)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with refused("network.pretrained", cached.name, "never run"):
        TorchvisionSegmentation(CELLS, "lraspp_mobilenet_v3_large", pretrained="DEFAULT")
