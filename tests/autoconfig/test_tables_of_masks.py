"""The front door takes tables that hold images and masks, and tables with several numbers for each image."""

from pathlib import Path
from typing import Any

import pytest

from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.data import HubSegmentation
from tests.data.vision_files import write_listed, write_masked_table
from tests.refused import refused


@pytest.mark.parametrize("form", [pytest.param("file", marks=pytest.mark.slow), "folder", "saved"])
def test_tables_of_images_and_masks_are_recognised_in_every_form(
    nets: dict[str, str], tmp_path: Path, form: str
) -> None:
    (tmp_path / "hub").mkdir()
    files = write_masked_table(tmp_path / "hub", sizes=(20, 8))
    where = {"file": files["train"], "folder": str(tmp_path / "hub"), "saved": str(tmp_path / "saved")}[form]
    if form == "saved":
        from datasets import DatasetDict, load_dataset

        DatasetDict(
            {name: load_dataset("parquet", data_files=file)["train"] for name, file in files.items()}
        ).save_to_disk(where)
    study, lines = front_door(nets["resnet"], where)
    data = study["base"]["data"]
    assert data["class_path"] == "HubSegmentation" and study["base"]["network"]["class_path"] == "TimmSegmentation"
    assert data["init_args"]["mask_column"] == "annotation" and data["init_args"]["path"] == where
    assert any("20 images with masks of 3 classes" in line for line in lines), lines
    assert ("test_fraction" in data["init_args"]) == (form == "file"), "the test table of a folder is used"
    made = HubSegmentation(**data["init_args"], seed=0)
    made.setup()
    assert set(made.splits) == {"train", "val", "test"}
    mask = made.splits["test"].samples.mask(0)  # type: ignore[attr-defined]
    assert mask.shape == (12, 12) and set(mask.unique().tolist()) == {0, 1, 2}


def test_a_column_of_masks_with_another_name_is_found_if_it_is_named(nets: dict[str, str], tmp_path: Path) -> None:
    table = write_masked_table(tmp_path, column="ground", sizes=(20, 8))["train"]
    with refused("--data", "images and nothing else", "data.mask_column"):
        front_door(nets["resnet"], table)
    study, _ = front_door(nets["resnet"], table, settings={"mask_column": "ground"})
    assert study["base"]["data"]["init_args"]["mask_column"] == "ground"
    with refused("--data", "images with masks", "segments"):
        front_door(nets["bert"], table, settings={"mask_column": "ground"})


def test_several_numbers_are_predicted_together(nets: dict[str, str], tmp_path: Path) -> None:
    columns = {"age": lambda i: str(i / 7), "size": lambda i: str(i % 5), "id": lambda i: f"n{i}"}
    files = write_listed(tmp_path, columns, sizes=(60, 20))
    study, lines = front_door(nets["vit"], files["train"], label_column="age, size")
    data = study["base"]["data"]
    assert data["class_path"] == "ImageTable" and data["init_args"]["label_columns"] == ["age", "size"]
    assert any("columns 'age' and 'size' (regression, standard deviations 2.47, 1.41)" in line for line in lines), lines
    assert study["select"]["within"] == pytest.approx(0.01 * (2.474**2 + 2) / 2, rel=0.02)
    with refused("--data", "'same'", "are 1"):
        front_door(nets["vit"], constant(tmp_path / "other"), label_column="age,same")


def constant(root: Path) -> str:
    """A table in which one column has one value."""
    return write_listed(root, {"age": lambda i: str(i / 7), "same": lambda i: "1"}, sizes=(20, 8))["train"]


def test_columns_of_0_and_1_are_sets_of_labels_unless_the_task_is_regression(
    nets: dict[str, str], tmp_path: Path
) -> None:
    files = write_listed(tmp_path, {"a": lambda i: str(i % 2), "b": lambda i: str(i % 3 // 2)}, sizes=(60, 20))
    study, _ = front_door(nets["vit"], files["train"], label_column="a,b")
    assert study["base"]["data"]["class_path"] == "MultiLabelImages"
    study, _ = front_door(nets["vit"], files["train"], label_column="a,b", task="regression")
    assert study["base"]["data"]["init_args"]["label_columns"] == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["masks", "numbers"])
def test_fit_reads_them_as_the_front_door_said(nets: dict[str, str], tmp_path: Path, fit: Any, form: str) -> None:
    if form == "masks":
        (tmp_path / "hub").mkdir()
        write_masked_table(tmp_path / "hub", sizes=(20, 8))
        study, _ = front_door(nets["resnet"], str(tmp_path / "hub"))
        assert {"val/miou", "val/dice"} <= fit(study["base"]).metrics.keys()
        return
    columns = {"age": lambda i: str(i / 7), "size": lambda i: str(i % 5)}
    study, _ = front_door(
        nets["vit"], write_listed(tmp_path, columns, sizes=(60, 20))["train"], label_column="age,size"
    )
    run = fit(study["base"])
    assert {"val/mse", "val/r2"} <= run.metrics.keys() and run.record["task"]["num_outputs"] == 2
