"""Segmentation on timm's backbones: the same maps as timm's own, a decoder that is new, and a second tuning."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules import DistillSFT, LinearProbe
from sft_lightning.modules.freeze import frozen_names
from sft_lightning.networks import TimmSegmentation, spec
from tests.networks.vision import images, shaken
from tests.refused import refused

CELLS = TaskInfo("semantic_segmentation", 3, ["a", "b", "c"])


def saved(name: str, path: Path) -> str:
    torch.manual_seed(0)
    save_file(shaken(timm.create_model(name, num_classes=7)).state_dict(), path)
    return str(path)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_the_backbone_is_pretrained_and_the_decoder_new(name: str, tmp_path: Path) -> None:
    file = saved(name, tmp_path / "model.safetensors")
    network = TimmSegmentation(CELLS, name, pretrained=file, width=8).eval()
    network.watch_new_layers()
    side = network.built_for[0] if network.built_for else 70
    x = {"image": images(side)}
    with torch.no_grad():
        said = network(x)
        model = timm.create_model(name, num_classes=7, checkpoint_path=file).eval()
        maps = model.forward_intermediates(x["image"], intermediates_only=True, output_fmt="NCHW")
        mine = network.encoder.backbone.forward_intermediates(
            x["image"], indices=network.encoder.levels, intermediates_only=True
        )
    assert all(torch.equal(one, maps[level]) for level, one in zip(network.encoder.levels, mine, strict=True))
    assert said.logits.shape == (*said.features.shape[:3], 3) and said.features.shape[-1] == 8
    assert network.fresh and all(n.startswith("decoder.") for n in network.fresh) and not network.report.missing
    assert network.source_head is None, "classes of images are none of pixels"
    assert said.below_new is not None and said.below_new.shape[-1] >= maps[-1].shape[1]
    frozen = frozen_names(network, "all-but-head")
    assert frozen and not any("decoder" in n or n.startswith("head.") for n in frozen)
    assert set(network.new_parameters()) == {f"encoder.{n}" for n in network.fresh} | {
        "head.weight",
        "head.bias",
    }


def test_a_second_tuning_is_anchored_to_the_classes_of_the_first(tmp_path: Path) -> None:
    first = shaken(TimmSegmentation(CELLS, "test_resnet", width=8))
    first.save_pretrained(str(tmp_path))
    module = DistillSFT(
        spec(TimmSegmentation, name="test_resnet", width=8, pretrained=str(tmp_path)),
        task=TaskInfo("semantic_segmentation", 2).to_dict(),
    )
    module.configure_model()
    assert module.on == "source_logits" and module.network is not None
    assert module.network.source_labels == ["a", "b", "c"] and not module.network.fresh
    with refused("network.pretrained", "decoder"):
        TimmSegmentation(CELLS, "test_resnet", width=16, pretrained=str(tmp_path))
    probe = LinearProbe(module.hparams["network"], task=TaskInfo("semantic_segmentation", 2).to_dict())
    with refused("model", "LinearProbe", "semantic_segmentation", "freeze"):
        probe.configure_model()
    with refused("network.width", "0"):
        TimmSegmentation(CELLS, "test_resnet", width=0)
