"""The front door takes images with boxes in each format, says what it took them for, and trains detectors."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import TimmDetection
from tests.data.box_files import write_coco, write_voc, write_yolo
from tests.refused import refused

SMALL = {"name": "test_resnet", "width": 64, "convolutions": 1}


def test_cocos_json_is_recognised_said_and_trained_on(nets: dict[str, str], tmp_path: Path, fit: Any) -> None:
    study, lines = front_door(nets["resnet"], str(write_coco(tmp_path)))
    said, base = "\n".join(lines), study["base"]
    assert base["data"]["class_path"] == "CocoDetection" and base["network"]["class_path"] == "TimmDetection"
    for words in ("24 images with", "boxes of 2 classes", "COCO's JSON", "squares of 64", "no output layer to keep"):
        assert words in said, said
    assert ", 64 pixels" in said and "tokens" not in said
    assert study["select"] == {"target": "val/map", "kept": "drift/features_cka", "rule": "keep", "within": 0.01}
    run = fit(base)
    assert {"val/map", "val/map50", "val/mar100", "drift/features_cka"} <= run.metrics.keys()


@pytest.mark.parametrize(("write", "cls"), [(write_voc, "VOCDetection"), (write_yolo, "YOLOFolder")])
def test_a_detector_keeps_its_head_and_is_measured_on_its_own_images(tmp_path: Path, write: Any, cls: str) -> None:
    torch.manual_seed(0)
    TimmDetection(TaskInfo("object_detection", 2, ["square", "disc"]), **SMALL).save_pretrained(str(tmp_path / "net"))
    new, old = write(tmp_path / "new"), write(tmp_path / "old")
    study, _ = front_door(str(tmp_path / "net"), str(new), str(old), settings={"labels": ["disc"]})
    base = study["base"]
    assert base["data"]["class_path"] == base["retention"]["class_path"] == cls
    assert base["data"]["init_args"]["labels"] == ["disc"]
    assert base["retention"]["init_args"]["labels"] == ["square", "disc"]
    assert study["select"]["kept"] == "retention/map"


def test_a_network_that_does_not_detect_is_refused(nets: dict[str, str], tmp_path: Path) -> None:
    with refused("--data", "images with boxes in YOLO's text files", "takes images", "timm"):
        front_door(nets["vit"], str(write_yolo(tmp_path)))
    with refused("data.box_format", "YOLO's text files"):
        front_door(nets["resnet"], str(tmp_path), settings={"box_format": "xyxy"})
