"""Folders and tables of images: which folder is a split, which a class, and which files are no one's."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torchvision import datasets as theirs

from sft_lightning.autoconfig.data_plan import Overrides
from sft_lightning.autoconfig.infer_data import infer_data
from sft_lightning.data import HubImages, ImageFolder
from sft_lightning.data.split_names import split_of
from tests.data import vision_files as files
from tests.refused import refused


def sizes(root: Path, **settings: Any) -> dict[str, int]:
    data = ImageFolder(root=str(root), **settings)
    data.setup()
    return {name: len(split) for name, split in data.splits.items()}


def refuses(root: Path, *values: object) -> None:
    with refused("data", root, *values):
        ImageFolder(root=str(root)).setup()


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (
            "train Train TRAIN training Training_Set train_images TrainImages trainset train2017 train-00000-of-00002",
            "train",
        ),
        ("val Val valid validation dev Eval evaluation val_images validation-set val2017", "val"),
        ("test Test TESTING test_images testset images_test test-00000-of-00001", "test"),
    ],
)
def test_splits_are_known_in_the_spellings_that_people_use(names: str, kind: str) -> None:
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), kind)


def test_other_names_are_no_splits() -> None:
    for name in ("test_tube", "steam train", "latest", "devices", "trainer", "train_test", "validity", "cat", "images"):
        assert split_of(name) is None, name


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "", "Test"),
        ("training", "", "testing"),
        ("train", "Val", "testing"),
        ("train_images", "dev", "test_images"),
    ],
)
def test_split_folders_under_any_of_their_names_are_splits_and_never_classes(
    train: str, val: str, test: str, tmp_path: Path
) -> None:
    for number, (name, count) in enumerate(((train, 10), (val, 3), (test, 4))):
        if name:
            files.write_folder(tmp_path / name, {"a": count, "b": count}, seed=number)
    expected = {"train": 20, "val": 6, "test": 8} if val else {"train": 18, "val": 2, "test": 8}
    assert sizes(tmp_path) == expected
    plan = infer_data(str(tmp_path), ("image",), "a network", Overrides())
    assert (plan.train, plan.test, list(plan.counts)) == (20, 8, ["a", "b"])


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        ("x_train/x_test", "x_test, x_train"),
        ("flowers-Training/flowers-val/extra", "flowers-Training, flowers-val"),
        ("2017 birds test/birds dev 2017", "2017 birds test, birds dev 2017"),
    ],
)
def test_the_splits_of_one_data_set_are_never_its_classes(tmp_path: Path, names: str, alike: str) -> None:
    for name in names.split("/"):
        files.write_folder(tmp_path / name, {"ant": 2, "bee": 2})
    refuses(tmp_path, alike, "train, val and test")


def test_folders_that_may_be_splits_or_classes_are_refused_by_name(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "mixed", {"cat": 4, "dog": 4, "test": 4})
    refuses(tmp_path / "mixed", "test", "cat, dog")
    files.write_folder(tmp_path / "three", {"bus": 4, "car": 4, "train": 4})
    refuses(tmp_path / "three", "train", "bus, car")
    for name in ("train", "Training"):
        files.write_folder(tmp_path / "twice" / name, {"a": 4, "b": 4})
    refuses(tmp_path / "twice", "Training, train")
    for name in ("test", "val"):
        files.write_folder(tmp_path / "headless" / name, {"a": 4, "b": 4})
    refuses(tmp_path / "headless", "test, val")
    for name in ("cat", "dog"):
        files.write_folder(tmp_path / "within" / name, {"train": 4, "test": 4})
    refuses(tmp_path / "within", "within/cat", "test, train")
    files.write_folder(tmp_path / "again" / "train", {"train": 4, "test": 4})
    refuses(tmp_path / "again", "again/train", "test, train")
    for layout in ("mixed", "three", "twice", "headless"):
        with refused("--data", tmp_path / layout):
            infer_data(str(tmp_path / layout), ("image",), "a network", Overrides())


def test_what_stands_beside_split_folders_is_left_out_and_named(tmp_path: Path) -> None:
    for name in ("train", "test"):
        files.write_folder(tmp_path / name, {"a": 6, "b": 6})
    files.write_folder(tmp_path / "unlabelled", {"x": 5})
    (tmp_path / "docs").mkdir()
    data = ImageFolder(root=str(tmp_path))
    data.setup()
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 10, "val": 2, "test": 12}
    assert "left out the folders unlabelled beside train" in data.describe()


def test_hidden_folders_and_files_are_left_out_at_every_depth_and_counted(tmp_path: Path) -> None:
    files.write_folder(tmp_path, {"a": 10, "b": 10})
    for hidden in ("a/.ipynb_checkpoints", "b/deep/._AppleDouble", "__MACOSX/a", "b/@eaDir/x", "a/.git/below"):
        files.write_folder(tmp_path / Path(hidden).parent, {Path(hidden).name: 2})
    for name in ("a/._0.png", "b/.DS_Store", "b/Thumbs.db"):
        (tmp_path / name).write_bytes(b"Mac OS X")
    data = ImageFolder(root=str(tmp_path))
    data.setup()
    assert sum(len(split) for split in data.splits.values()) == 20
    assert data.task_info is not None and data.task_info.labels == ["a", "b"]
    assert "left out 11 hidden images" in data.describe()


def test_links_are_entered_as_torchvision_enters_them_and_cycles_end(tmp_path: Path) -> None:
    root, store = tmp_path / "images", tmp_path / "store"
    files.write_folder(root, {"a": 3, "b": 3})
    files.write_folder(store, {"one": 10, "two": 10})
    (root / "a" / "batch").symlink_to(store / "one")
    (root / "b" / "batch").symlink_to(store / "two")
    (root / "c").symlink_to(store / "one")
    (root / "b" / "linked.png").symlink_to(store / "two" / "0.png")
    assert sum(sizes(root).values()) == len(theirs.ImageFolder(str(root))) == 37
    (root / "a" / "round").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "b" / "gone").symlink_to(tmp_path / "nowhere")
    data = ImageFolder(root=str(root))
    data.setup()
    assert sum(len(split) for split in data.splits.values()) == 37
    said = data.describe()
    assert "did not follow 1 link to a folder around it" in said and "2 broken links" in said and "gone" in said
    (root / "d").symlink_to(tmp_path / "nowhere")
    refuses(root, "images/d")


def test_names_that_are_no_utf8_are_read_and_said_safely(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    files.write_folder(tmp_path, {odd: 10, "tea": 10})
    (tmp_path / odd / "0.png").rename(tmp_path / odd / os.fsdecode(b"\xff\xfe.png"))
    data = ImageFolder(root=str(tmp_path))
    data.setup()
    assert data.task_info is not None and len(data.task_info.labels) == 2
    " ".join([*data.task_info.labels, data.describe(), str(data.fingerprint())]).encode("utf-8")
    plan = infer_data(str(tmp_path), ("image",), "a network", Overrides())
    " ".join([*plan.counts, *plan.lines]).encode("utf-8")


# ---- tables ----


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("training", "testing"),
        ("a-train-00000-of-00001", "a-test-00000-of-00001"),
        ("train/0", "TEST/0"),
    ],
)
def test_parquet_files_are_splits_under_any_of_their_names(train: str, test: str, tmp_path: Path) -> None:
    for name, count in ((train, 12), (test, 6)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        files.table(count, count).to_parquet(tmp_path / f"{name}.parquet")
    data = HubImages(path=str(tmp_path), val_fraction=0.5)
    data.setup()
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 6, "val": 6, "test": 6}


def test_parquet_files_of_no_split_are_never_added_to_train_in_silence(tmp_path: Path) -> None:
    for name in ("train", "extra"):
        files.table(12, 0).to_parquet(tmp_path / f"{name}.parquet")
    with refused("data", "extra.parquet", "train.parquet", "data.init_args.data_files"):
        HubImages(path=str(tmp_path)).setup()


def test_the_keys_of_data_files_may_be_named_in_any_of_the_ways(tmp_path: Path) -> None:
    named = {}
    for key, count in (("Training", 12), ("dev", 9), ("Testing", 6)):
        named[key] = str(tmp_path / f"{count}.parquet")
        files.table(count, count).to_parquet(named[key])
    data = HubImages(data_files=named)
    data.setup()
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 12, "val": 9, "test": 6}
    named["validation"] = named["dev"]
    with refused("data", "dev, validation", "data.init_args.val_split"):
        HubImages(data_files=named).setup()


def test_labels_are_the_same_classes_in_whatever_type_each_file_has_them(tmp_path: Path) -> None:
    for i in range(12):
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / f"{i}.png")
    rows = {
        "train": [(i, str(i % 3)) for i in range(9)],
        "validation": [(9, "1.0"), (10, "2.0"), (11, "0.0")],
        "unlabelled": [(0, "2"), (1, ""), (2, "0")],
    }
    for split, lines in rows.items():
        (tmp_path / f"{split}.csv").write_text("image,label\n" + "".join(f"{i}.png,{y}\n" for i, y in lines))
    (tmp_path / "test.jsonl").write_text('{"image": "0.png", "label": 2}\n{"image": "1.png", "label": 0}\n')
    named = {"train": "train.csv", "validation": "validation.csv", "test": "test.jsonl"}
    data = HubImages(data_files={k: str(tmp_path / v) for k, v in named.items()})
    data.setup()
    found = {name: split.targets.tolist() for name, split in data.splits.items() if split.targets is not None}
    assert data.task_info is not None and data.task_info.labels == ["0", "1", "2"]
    with refused("data", "row 1 of split 'test'", "column 'label'", "data.on_bad_sample skip"):
        HubImages(
            data_files={k: str(tmp_path / f"{v}.csv") for k, v in (("train", "train"), ("test", "unlabelled"))}
        ).setup()
    assert found["val"] == [1, 2, 0] and found["test"] == [2, 0] and Counter(found["train"]) == {0: 3, 1: 3, 2: 3}


def test_class_names_of_tables_count_and_not_their_numbers(tmp_path: Path) -> None:
    from datasets import ClassLabel

    table = files.table(9, 0)
    table.to_parquet(tmp_path / "train.parquet")
    other = files.table(9, 0).cast_column("label", ClassLabel(names=["cat", "ant", "bee"]))
    other.to_parquet(tmp_path / "test.parquet")
    data = HubImages(path=str(tmp_path), val_fraction=0.4)
    data.setup()
    expected = [["ant", "bee", "cat"].index(["cat", "ant", "bee"][y]) for y in other["label"]]
    assert data.splits["test"].targets is not None and data.splits["test"].targets.tolist() == expected
