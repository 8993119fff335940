"""The front door recognises images with sets of labels and with numbers, and fit reads them as it said."""

from pathlib import Path
from typing import Any

import pytest

from sft_lightning.autoconfig.default_study import front_door
from tests.data.box_files import write_coco
from tests.data.vision_files import write_listed
from tests.refused import refused

SETS = ["a;b", "", "b", "c;a", "a"]


def test_images_with_sets_of_labels_are_recognised_and_train(nets: dict[str, str], tmp_path: Path, fit: Any) -> None:
    files = write_listed(tmp_path, {"tags": lambda i: SETS[i % 5]}, sizes=(60, 20))
    study, lines = front_door(nets["vit"], str(tmp_path))
    data = study["base"]["data"]
    assert data["class_path"] == "MultiLabelImages" and data["init_args"]["test"] == files["test"]
    assert data["init_args"]["file_column"] == "file_name" and data["init_args"]["label_separator"] == ";"
    said = next(line for line in lines if "sets of labels" in line)
    assert "60 images" in said and "3 labels: a 36, b 24, c 12" in said and "12 images without any" in said
    assert any("--task" in line and "otherwise" in line for line in lines)
    assert study["select"]["target"] == "val/f1_micro" and "test/map" in study["report"]
    assert "val/f1_micro" in fit(study["base"]).record["metrics"]


def test_settings_that_every_run_would_refuse_are_refused(nets: dict[str, str], tmp_path: Path) -> None:
    write_listed(tmp_path, {"tags": lambda i: SETS[i % 5]}, sizes=(60, 20))
    with refused("data.shots_per_class", "several labels", "data.train_fraction"):
        front_door(nets["vit"], str(tmp_path), settings={"shots_per_class": 2})


def test_images_with_numbers_are_recognised_and_train(nets: dict[str, str], tmp_path: Path, fit: Any) -> None:
    files = write_listed(tmp_path, {"score": lambda i: str(i / 7), "id": lambda i: f"n{i}"}, sizes=(60, 20))
    study, lines = front_door(nets["vit"], files["train"])
    data = study["base"]["data"]
    assert data["class_path"] == "ImageTable" and data["init_args"]["task"] == "regression"
    assert any("60 images" in line and "regression, standard deviation 2.47" in line for line in lines)
    assert study["select"]["target"] == "val/mse" and {"test/mae", "test/r2"} <= set(study["report"])
    assert {"val/mse", "val/mae", "val/r2"} <= fit(study["base"]).record["metrics"].keys()


def test_cocos_categories_are_labels_if_the_user_says_so(nets: dict[str, str], tmp_path: Path) -> None:
    root = str(write_coco(tmp_path))
    study, lines = front_door(nets["vit"], root, task="multi_label")
    assert study["base"]["data"]["class_path"] == "CocoLabels" and any("COCO" in line for line in lines)
    with refused("--data", "images with boxes", "--task multi_label"):
        front_door(nets["vit"], root)
    with refused("--data", "images with COCO's categories", "takes"):
        front_door(nets["bert"], root, task="multi_label")


@pytest.mark.parametrize("labels", [None, "label"])
def test_one_class_an_image_is_still_a_class(nets: dict[str, str], tmp_path: Path, labels: str | None) -> None:
    write_listed(
        tmp_path, {"label": lambda i: ("x|y", "v|w", "u")[i % 3], "seen": lambda i: str(i % 2)}, sizes=(60, 20)
    )
    study, _ = front_door(nets["vit"], str(tmp_path / "train.csv"), label_column=labels)
    assert study["base"]["data"]["class_path"] == "HubImages"
