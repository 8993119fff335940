"""Folders that `save_to_disk` of `datasets` wrote are read as the tables that they hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft_lightning.autoconfig.data_plan import Overrides
from sft_lightning.autoconfig.infer_data import infer_data
from sft_lightning.data import HubDetection, HubImages, HubSegmentation, Instructions, MultiLabelTable, TaggedTable
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


@pytest.mark.parametrize("cls", [MultiLabelTable, TaggedTable, Instructions])
def test_a_saved_folder_of_texts_is_read_as_its_parquet_files_are(cls: Any, tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

    names = List(ClassLabel(names=["O", "B-x"]))
    features = Features({n: Value("string") for n in ("text", "prompt", "completion")})
    features |= {"tokens": List(Value("string")), "tags": names, "labels": names}
    row = {"prompt": "p", "completion": "c", "tokens": ["a", "b"], "tags": [0, 1], "labels": [1]}
    rows = [{"text": f"text {i}", **row} for i in range(9)]
    tables = {split: Dataset.from_list(rows, features=Features(features)) for split in ("train", "test")}
    DatasetDict(tables).save_to_disk(str(tmp_path / "saved"))
    files = {split: str(tmp_path / f"{split}.parquet") for split in tables}
    for split, of in tables.items():
        of.to_parquet(files[split])
    found, expected = cls(path=str(tmp_path / "saved"), seed=0).load(), cls(**files, seed=0).load()
    assert [s.digest() for s in found.each()] == [s.digest() for s in expected.each()]
    assert found.labels == expected.labels and found.test is not None
    with refused("data.config", "null"):
        cls(path=str(tmp_path / "saved"), config="one", seed=0).load()
    with refused("data.train", "data.path", "to_parquet"):
        cls(train=str(tmp_path / "saved"), seed=0).load()
    with refused("--data", "save_to_disk", "to_parquet"):
        infer_data(str(tmp_path / "saved"), ("text", "words", "tokens"), "net", Overrides())


def test_a_folder_that_is_no_table_is_refused(tmp_path: Path) -> None:
    with refused("data.path", "`datasets` did not save it"):
        HubImages(path=str(tmp_path), image_column="image").load()
    (tmp_path / "state.json").write_text("{}")
    with refused("data.path", "cannot be loaded", "save_to_disk"):
        HubImages(path=str(tmp_path), image_column="image").load()
