"""The front door takes folders of images and masks, says what it took them for, and trains networks that segment."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import UNet
from tests.data.test_contract import pets, streets, voc
from tests.data.vision_files import write_masks
from tests.refused import refused


def test_images_beside_masks_are_recognised_said_and_trained_on(nets: dict[str, str], tmp_path: Path, fit: Any) -> None:
    write_masks(tmp_path / "cells", 20, "image", "label", side=40)
    study, lines = front_door(nets["resnet"], str(tmp_path / "cells"))
    said, base = "\n".join(lines), study["base"]
    assert base["data"]["class_path"] == "MaskFolder" and base["network"]["class_path"] == "TimmSegmentation"
    for words in (
        "20 images with masks of 2 classes",
        "0 is 0, 255 is 1",
        "data.mask_values",
        "no output layer to keep",
    ):
        assert words in said, said
    assert study["select"] == {"target": "val/miou", "kept": "drift/features_cka", "rule": "keep", "within": 0.01}
    assert list(study["arms"]) == ["frozen", "plain", "l2sp", "distill"] and "folds" not in study
    run = fit(base)
    assert {"val/miou", "val/dice", "val/pixel_accuracy", "drift/features_cka"} <= run.metrics.keys()


def test_a_network_that_segments_keeps_its_head_and_is_measured_on_its_own_images(tmp_path: Path, fit: Any) -> None:
    torch.manual_seed(0)
    UNet(TaskInfo("semantic_segmentation", 3, ["a", "b", "c"]), widths=[4, 8]).save_pretrained(str(tmp_path / "unet"))
    write_masks(tmp_path / "new", 20, side=16)
    write_masks(tmp_path / "old", 20, side=16, values=(0, 1, 2))
    settings = {"labels": ["ground", "cell"]}
    study, lines = front_door(str(tmp_path / "unet"), str(tmp_path / "new"), str(tmp_path / "old"), settings=settings)
    base = study["base"]
    assert base["data"]["init_args"]["labels"] == ["ground", "cell"] and any("255 is cell" in line for line in lines)
    assert base["retention"]["init_args"]["labels"] == ["a", "b", "c"]
    assert study["select"]["kept"] == "retention/miou"
    run = fit(base)
    assert {"retention/miou", "retention/forgetting", "retention/agreement"} <= run.metrics.keys()


def test_what_every_run_would_refuse_is_refused_at_the_front_door(nets: dict[str, str], tmp_path: Path) -> None:
    write_masks(tmp_path / "cells", 20, side=100)
    with refused("data.score_size", "no effect", "data.image_size"):
        front_door(nets["resnet"], str(tmp_path / "cells"), settings={"window": 64, "score_size": "mask"})


def test_a_network_that_does_not_segment_is_refused_unless_folders_are_classes(
    nets: dict[str, str], tmp_path: Path
) -> None:
    write_masks(tmp_path / "cells", 20)
    with refused("--data", "images with masks", "takes images", "--task classification"):
        front_door(nets["vit"], str(tmp_path / "cells"))
    voc(tmp_path / "voc", pytest.MonkeyPatch())
    study, lines = front_door(nets["resnet"], str(tmp_path / "voc"))
    assert study["base"]["data"]["class_path"] == "VOCSegmentation" and any("21 classes" in line for line in lines)
    study, _ = front_door(nets["vit"], str(tmp_path / "cells"), task="classification")
    assert study["base"]["data"]["class_path"] == "ImageFolder"
    with refused("--data", "images with masks"):
        front_door(nets["vit"], str(tmp_path / "cells"), task="semantic_segmentation")


def test_cityscapes_and_pets_are_known_by_their_layout(nets: dict[str, str], tmp_path: Path) -> None:
    patch = pytest.MonkeyPatch()
    streets(tmp_path / "city", patch)
    study, lines = front_door(nets["resnet"], str(tmp_path / "city"), settings={"window": 32})
    data = study["base"]["data"]
    assert data["class_path"] == "Cityscapes" and data["init_args"]["window"] == 32
    assert "image_size" not in data["init_args"] and any("19 classes" in line for line in lines)
    pets(tmp_path / "pets", patch)
    study, lines = front_door(nets["resnet"], str(tmp_path / "pets"))
    assert study["base"]["data"]["class_path"] == "OxfordPet" and any("animal in 20" in line for line in lines)
    with refused("data.labels", "OxfordPet"):
        front_door(nets["resnet"], str(tmp_path / "pets"), settings={"labels": ["a", "b", "c"]})
