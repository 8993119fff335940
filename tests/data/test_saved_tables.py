"""Folders that `save_to_disk` of `datasets` wrote are read as the tables that they hold."""

from pathlib import Path

import numpy as np
import pytest

from sft_lightning.data import HubDetection, HubImages, HubSegmentation
from sft_lightning.data.base import SFTDataModule
from tests.data.box_files import write_boxed_table
from tests.data.vision_files import table, write_masked_table
from tests.refused import refused


def written(kind: str, root: Path) -> tuple[type[SFTDataModule], dict[str, str]]:
    """A data module and its parquet files by split."""
    root.mkdir()
    if kind == "masks":
        return HubSegmentation, write_masked_table(root)
    if kind == "boxes":
        return HubDetection, write_boxed_table(root)
    for split, count in (("train", 20), ("test", 8)):
        table(count, seed=len(split)).to_parquet(root / f"{split}.parquet")
    return HubImages, {split: str(root / f"{split}.parquet") for split in ("train", "test")}


@pytest.mark.parametrize("kind", ["images", "masks", "boxes"])
def test_what_datasets_saved_is_what_its_parquet_files_hold(kind: str, tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    cls, files = written(kind, tmp_path / "files")
    tables = {split: Dataset.from_parquet(file, cache_dir=str(tmp_path / "cache")) for split, file in files.items()}
    DatasetDict(tables).save_to_disk(str(tmp_path / "all"))
    tables["train"].save_to_disk(str(tmp_path / "one"))
    named = {"image_column": tables["train"].column_names[0]} if kind == "images" else {}
    expected, found, one = (
        cls(**given, **named, seed=0).load()  # type: ignore[arg-type]
        for given in ({"data_files": files}, {"path": str(tmp_path / "all")}, {"path": str(tmp_path / "one")})
    )
    assert found.labels == expected.labels and one.test is None
    assert [s.digest() for s in found.each()] == [s.digest() for s in expected.each()]
    assert one.train.digest() == expected.train.digest()
    np.testing.assert_array_equal(found.train.read(0), expected.train.read(0))  # type: ignore[attr-defined]


def test_a_folder_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with refused("data.path", "`datasets` did not save it"):
        HubImages(path=str(tmp_path), image_column="image").load()
    (tmp_path / "state.json").write_text("{}")
    with refused("data.path", "cannot be loaded", "save_to_disk"):
        HubImages(path=str(tmp_path), image_column="image").load()
