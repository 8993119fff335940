"""Images with masks in parquet files: the same as `datasets` reads, and what is wrong is named."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from sft_lightning.core.structures import InputSpec
from sft_lightning.data.sampler import Key
from sft_lightning.data.vision.hub_masks import HubSegmentation
from sft_lightning.data.vision.masked_rows import MaskedRows
from tests.data.vision_files import png, write_masked_table
from tests.refused import refused


def ready(files: dict[str, str], **settings: Any) -> HubSegmentation:
    data = HubSegmentation(data_files=files, **{"batch_size": 4, "seed": 0, "val_fraction": 0.25, **settings})
    data.setup()
    data.settle(InputSpec("masks", channels=3))
    return data


def test_images_and_masks_are_those_that_datasets_reads(tmp_path: Path) -> None:
    data = ready(write_masked_table(tmp_path))
    assert data.task_info is not None and data.task_info.labels == ["0", "1", "2"]
    assert any("column 'annotation'" in note for note in data.notes)
    test = datasets.Dataset.from_parquet(str(tmp_path / "test.parquet"), cache_dir=str(tmp_path / "cache"))
    batch = data.splits["test"].__getitems__([Key(i, 0) for i in range(4)])
    for row in range(4):
        assert torch.equal(batch["x"]["image"][row], torch.from_numpy(np.array(test[row]["image"])).permute(2, 0, 1))
    masks = torch.stack([torch.from_numpy(np.array(test[row]["annotation"])) for row in range(4)])
    assert torch.equal(batch["y"], masks.flatten().long()) and bool(batch["select"].all())
    assert data.fingerprint() == ready({s: str(tmp_path / f"{s}.parquet") for s in ("train", "test")}).fingerprint()


@pytest.mark.parametrize("wrong", ["missing", "damaged", "of another size"])
def test_a_wrong_mask_is_named_or_left_out_and_counted(tmp_path: Path, wrong: str) -> None:
    files = write_masked_table(tmp_path, "mask")
    table = datasets.Dataset.from_parquet(files["train"], cache_dir=str(tmp_path / "cache"))
    rows = table.cast_column("mask", datasets.Image(decode=False)).to_list()
    other = {"missing": None, "damaged": b"no PNG", "of another size": png(np.zeros((5, 7), dtype=np.uint8))}[wrong]
    rows[2]["mask"] = None if other is None else {"bytes": other, "path": None}
    images = [{**row, "image": {"bytes": png(np.array(table[i]["image"])), "path": None}} for i, row in enumerate(rows)]
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    datasets.Dataset.from_list(images, features=features).to_parquet(files["train"])
    with refused("data", "row 2 of train"):
        samples = ready(files, image_size=12).splits["train"].samples
        assert isinstance(samples, MaskedRows)
        samples.mask(2)
    skipping = ready(files, image_size=12, on_bad_sample="skip")
    if wrong == "missing":
        assert skipping.skipped_report()["train"]["count"] == 1
    with refused("data.mask_column", "annotation"):
        ready(write_masked_table(tmp_path, "other"))
    with refused("data", "'msk'"):
        ready(files, mask_column="msk")


def test_a_name_of_a_split_that_is_not_there_is_refused_although_another_means_it(tmp_path: Path) -> None:
    files = write_masked_table(tmp_path)
    with refused("data", "'tset'"):
        ready(files, test_split="tset")
    renamed = {"Training": files["train"], "testing": files["test"]}
    assert {kind: len(split) for kind, split in ready(renamed).splits.items()} == {
        kind: len(split) for kind, split in ready(files).splits.items()
    }
