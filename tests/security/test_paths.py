"""What data names lies in the data's folder: rows of tables, members of archives, names of runs."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from tests.security.conftest import Command, check_refused, config, network

NET = network("LeNet", image_size=16)


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(stream, "png")
    return stream.getvalue()


def table(folder: Path, cells: list[dict[str, Any]], images: bool = True) -> dict[str, Any]:
    """A parquet file of images in two classes, marked as such or without a word on what they are; HubImages on it."""
    import pyarrow as pa
    from pyarrow import parquet

    folder.mkdir(exist_ok=True)
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = {"image": pa.array(cells, kind), "label": [f"class {i % 2}" for i in range(len(cells))]}
    features = {"image": {"_type": "Image"}, "label": {"dtype": "string", "_type": "Value"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})} if images else None
    parquet.write_table(pa.table(rows).replace_schema_metadata(about), folder / "train.parquet")
    return {"class_path": "HubImages", "init_args": {"path": str(folder), "batch_size": 4, "val_fraction": 0.25}}


def by_path(folder: Path, odd: str | None = None) -> list[dict[str, Any]]:
    """Forty cells that name files in `folder`/images, the last one `odd`."""
    (folder / "images").mkdir(parents=True)
    for i in range(40):
        (folder / f"images/{i}.png").write_bytes(png(i))
    names = [f"images/{i}.png" for i in range(39)] + [odd or "images/39.png"]
    return [{"bytes": None, "path": name} for name in names]


def fit(command: Command, tmp_path: Path, data: dict[str, Any]) -> Any:
    return command("fit", *config(tmp_path, NET, data), "--wandb", "disabled")


@pytest.mark.parametrize("images", [True, False])
def test_rows_of_a_table_may_name_images_beside_it(images: bool, command: Command, tmp_path: Path) -> None:
    data = table(tmp_path / "data", by_path(tmp_path / "data"), images)
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    data["init_args"]["path"] = str(tmp_path / "linked")
    done = fit(command, tmp_path, data)
    assert done.code == 0, f"images in the table's own folder, which is a link, are refused:\n{done.err}"


@pytest.mark.parametrize(
    ("odd", "skip"),
    [
        *(("../outside.png", "fail"), ("images/../../outside.png", "skip"), ("ABSOLUTE", "fail")),
        *(("images/link.png", "skip"), ("aside/x.png", "fail")),
    ],
)
def test_a_row_that_leads_out_of_the_tables_folder_is_refused(
    odd: str, skip: str, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    for name in ("outside.png", "outside/x.png"):
        (tmp_path / name).write_bytes(png(99))
    data = table(tmp_path / "data", by_path(tmp_path / "data", odd.replace("ABSOLUTE", str(tmp_path / "outside.png"))))
    (tmp_path / "data/images/link.png").symlink_to(tmp_path / "outside.png")
    (tmp_path / "data/aside").symlink_to(tmp_path / "outside")
    data["init_args"]["on_bad_sample"] = skip
    check_refused(
        fit(command, tmp_path, data),
        "data",
        "row 39 of train",
        odd.replace("ABSOLUTE", str(tmp_path)),
        tmp_path / "data",
    )


def test_an_absolute_path_into_the_tables_folder_is_fine(command: Command, tmp_path: Path) -> None:
    inside = str(tmp_path / "data/images/0.png")
    done = fit(command, tmp_path, table(tmp_path / "data", by_path(tmp_path / "data", inside)))
    assert done.code == 0, done.err


def test_a_path_beside_bytes_is_not_followed(command: Command, tmp_path: Path) -> None:
    cells = [{"bytes": png(i), "path": "/etc/passwd"} for i in range(40)]
    done = fit(command, tmp_path, table(tmp_path / "data", cells))
    assert done.code == 0, done.err


def test_a_folder_of_images_may_be_a_link_and_hold_links(command: Command, tmp_path: Path) -> None:
    """Folders are made by their owner, who may well link a part of a larger collection; only tables name paths."""
    (tmp_path / "all").mkdir()
    for label in "ab":
        (tmp_path / "store" / label).mkdir(parents=True)
        for i in range(20):
            (tmp_path / f"all/{label}{i}.png").write_bytes(png(i))
            (tmp_path / f"store/{label}/{i}.png").symlink_to(tmp_path / f"all/{label}{i}.png")
    (tmp_path / "data").symlink_to(tmp_path / "store")
    done = fit(
        command, tmp_path, {"class_path": "ImageFolder", "init_args": {"root": str(tmp_path / "data"), "batch_size": 4}}
    )
    assert done.code == 0, done.err


def test_an_archive_that_is_not_the_data_sets_own_is_not_unpacked(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import utils

    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(utils, "_urlretrieve", unreachable)
    (tmp_path / "data").mkdir()
    with tarfile.open(tmp_path / "data/cifar-10-python.tar.gz", "w:gz") as archive:
        for name in ("../escaped", "cifar-10-batches-py/data_batch_1"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    data = {"class_path": "CIFAR10", "init_args": {"root": str(tmp_path / "data")}}
    check_refused(
        command("fit", *config(tmp_path, network("LeNet"), data), "--wandb", "disabled"),
        "data",
        "CIFAR10",
        tmp_path / "data",
    )
    assert not (tmp_path / "escaped").exists() and not (tmp_path / "data/cifar-10-batches-py").exists(), (
        "it was unpacked"
    )


@pytest.mark.parametrize("option", ["--run_id", "--experiment"])
@pytest.mark.parametrize("name", ["../up", "/tmp/elsewhere", "..", "", "~x", "a\nb"])
def test_a_runs_name_cannot_lead_elsewhere(option: str, name: str, command: Command, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    done = command("fit", "--config", "experiments/digits/distill.yaml", "--wandb", "disabled", f"{option}={name}")
    check_refused(done, option.strip("-"), repr(" ".join(name.split())))
    assert sorted(tmp_path.iterdir()) == before, "something was made"
