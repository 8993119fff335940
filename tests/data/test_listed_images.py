"""Images that tables and COCO's annotations list: classes, numbers, sets of labels, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sft_lightning.core.structures import InputSpec
from sft_lightning.data import SFTDataModule
from sft_lightning.data.sampler import Key
from sft_lightning.data.vision.coco_labels import CocoLabels
from sft_lightning.data.vision.image_table import ImageTable
from sft_lightning.data.vision.multi_label_images import MultiLabelImages
from tests.data.box_files import write_coco
from tests.data.text_files import write_jsonl
from tests.data.vision_files import write_listed
from tests.refused import refused

SETS = ["a;b", "", "c", "b"]


def ready(data: SFTDataModule) -> SFTDataModule:
    data.setup()
    data.settle(InputSpec("image", (8, 8), 3))
    return data


def marked(root: Path, **arguments: Any) -> MultiLabelImages:
    files = write_listed(root, {"labels": lambda i: SETS[i % 4], "patient": lambda i: str(i // 3)})
    return MultiLabelImages(**{**files, "val_fraction": 0.25, "seed": 0, **arguments})


def test_a_batch_has_images_and_a_row_of_zeros_and_ones_for_each(tmp_path: Path) -> None:
    data = ready(marked(tmp_path))
    assert data.task_info is not None and data.task_info.labels == ["a", "b", "c"]
    batch = data.splits["test"].__getitems__([Key(i, 0) for i in range(4)])
    assert batch["x"]["image"].shape == (4, 3, 8, 8)
    assert batch["y"].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0]] and batch["count"] == 4
    assert (
        "3 labels (" in data.describe() and "an image, " in data.describe() and "images without any" in data.describe()
    )
    chosen = ready(marked(tmp_path / "chosen", classes=["c", "a"]))
    assert chosen.splits["test"].__getitems__([Key(0, 0)])["y"].tolist() == [[0, 1]], "labels in the order asked for"


def test_columns_of_0_and_1_and_lists_are_the_same_sets(tmp_path: Path) -> None:
    data = ready(marked(tmp_path / "separated"))
    wanted = data.splits["train"].samples.targets
    columns = {name: lambda i, name=name: str(int(name in SETS[i % 4])) for name in "abc"}
    files = write_listed(tmp_path / "columns", columns)
    other = ready(MultiLabelImages(train=files["train"], label_columns=["a", "b", "c"], seed=0))
    assert (other.splits["train"].samples.targets == wanted).all()
    rows = [
        {"file": f"images/train{i}.png", "labels": SETS[i % 4].split(";") if SETS[i % 4] else []} for i in range(24)
    ]
    listed = write_jsonl(tmp_path / "columns/train.jsonl", rows)
    assert (ready(MultiLabelImages(train=listed, seed=0)).splits["train"].samples.targets == wanted).all()


def test_images_of_one_patient_are_never_in_two_splits(tmp_path: Path) -> None:
    data = ready(marked(tmp_path, group_column="patient"))
    parts = [set((data.splits[s].rows // 3).tolist()) for s in ("train", "val")]
    assert parts[0] and parts[1] and not parts[0] & parts[1]


def test_numbers_are_targets_as_they_are(tmp_path: Path) -> None:
    files = write_listed(tmp_path, {"age": lambda i: f"{i / 4}", "size": lambda i: f"1e-0{i % 3 + 1}"})
    one = ready(ImageTable(**files, label_column="age", task="regression", seed=0))
    assert one.task_info is not None and (one.task_info.num_outputs, one.task_info.labels) == (1, [])
    assert one.task_info.metrics == ["mse", "mae", "r2", "pearson", "spearman"]
    assert one.splits["test"].__getitems__([Key(2, 0)])["y"].tolist() == [0.5] and "1 number (mean" in one.describe()
    two = ready(ImageTable(**files, label_columns=["age", "size"], task="regression", seed=0))
    assert two.task_info is not None and (two.task_info.num_outputs, two.task_info.labels) == (2, ["age", "size"])
    batch = two.splits["test"].__getitems__([Key(1, 0), Key(2, 0)])
    np.testing.assert_allclose(batch["y"], [[0.25, 0.01], [0.5, 0.001]], rtol=1e-6)
    assert not two.found().get("classes_without_samples"), "numbers are not classes"


def test_a_class_for_each_image_can_be_read_from_a_table_too(tmp_path: Path) -> None:
    files = write_listed(tmp_path, {"label": lambda i: ("cat", "dog")[i % 2]})
    data = ready(ImageTable(**files, shots_per_class=2, seed=0))
    assert data.task_info is not None and data.task_info.labels == ["cat", "dog"] and len(data.splits["train"]) == 4


def test_the_labels_of_cocos_annotations_are_each_images_categories(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    file = root / "annotations/instances_train2017.json"
    held = json.loads(file.read_text())
    wanted = {(a["image_id"], a["category_id"]) for a in held["annotations"]}
    held["annotations"] = [{**a, "iscrowd": 1} for a in held["annotations"] if a["image_id"] != held["images"][0]["id"]]
    held["annotations"].append({"image_id": 9999, "category_id": held["categories"][0]["id"]})
    file.write_text(json.dumps(held))
    data = ready(CocoLabels(root=str(root), seed=0))
    targets = data.splits["train"].samples.targets
    assert targets is not None and targets[0].tolist() == [0, 0], "an image without annotations has no label, and stays"
    for row, image in enumerate(held["images"][1:], 1):
        assert targets[row].tolist() == [int((image["id"], n) in wanted) for n in (3, 7)]
    assert any("1 annotation of instances_train2017.json without image" in note for note in data.notes)
    one = ready(CocoLabels(root=str(root), labels=["square", "disc"], seed=0))
    assert (one.splits["train"].samples.targets == targets[:, ::-1]).all()


def test_a_file_without_annotations_says_nothing_of_labels(tmp_path: Path) -> None:
    root = write_coco(tmp_path)
    train, val = (root / f"annotations/instances_{split}2017.json" for split in ("train", "val"))
    val.write_text(json.dumps({**json.loads(val.read_text()), "annotations": []}))
    data = ready(CocoLabels(root=str(root), seed=0))
    assert len(data.splits["val"]) and data.splits["val"].samples is data.splits["train"].samples, "a share of train"
    assert any("instances_val2017.json has no annotations" in note and "left out" in note for note in data.notes)
    with refused("data", "instances_val2017.json", "no annotations"):
        ready(CocoLabels(root=str(root), val=str(val)))
    train.write_text(json.dumps({**json.loads(train.read_text()), "annotations": []}))
    with refused("data", "instances_train2017.json", "no annotations"):
        ready(CocoLabels(root=str(root)))


def test_the_column_split_of_one_table_divides_it(tmp_path: Path) -> None:
    splits = {"age": lambda i: str(i), "split": lambda i: ("train", "train", "valid", "test")[i % 4]}
    train = write_listed(tmp_path, splits)["train"]
    data = ready(ImageTable(train=train, label_column="age", task="regression"))
    found = {name: split.samples.targets[split.rows].tolist() for name, split in data.splits.items()}
    assert {name: {int(v) % 4 for v in values} for name, values in found.items()} == {
        "train": {0, 1},
        "val": {2},
        "test": {3},
    }
    assert data.splits["test"].samples.name(0).endswith("train3.png") and any(
        "'split' divides" in n for n in data.notes
    )
    with refused("data", "split", "train"):
        ready(ImageTable(train=train, val=train, label_column="age", task="regression"))


def test_numbers_that_single_precision_does_not_tell_apart_are_noted(tmp_path: Path) -> None:
    files = write_listed(tmp_path, {"time": lambda i: str(2**24 + i), "years": lambda i: f"{i / 7}"})
    data = ready(ImageTable(train=files["train"], label_column="time", task="regression"))
    assert any("24 different numbers in column 'time' are 13" in note for note in data.notes)
    assert not ready(ImageTable(train=files["train"], label_column="years", task="regression")).notes


def test_how_labels_are_written_is_said_as_it_is(tmp_path: Path) -> None:
    one = write_listed(tmp_path / "one", {"labels": lambda i: ("a b", "", "b")[i % 3]})["train"]
    assert any("at most one label in a row" in note for note in ready(MultiLabelImages(train=one)).notes)
    lists = write_listed(tmp_path / "lists", {"labels": lambda i: ("['a']", "[]", "['b']")[i % 3]})["train"]
    assert any("are lists" in note for note in ready(MultiLabelImages(train=lists)).notes)


def test_bad_input_is_one_line_or_skipped_and_counted(tmp_path: Path) -> None:
    files = write_listed(
        tmp_path, {"label": lambda i: "x" if i == 3 else str(i), "labels": lambda i: "a;a" if i == 2 else "a;b"}
    )
    train = files["train"]
    with refused("data", "train.csv line 5", "'x'", "number"):
        ready(ImageTable(train=train, task="regression"))
    skipping = ready(ImageTable(train=train, task="regression", on_bad_sample="skip"))
    report = skipping.skipped_report()["train"]
    assert report["count"] == 1 and "sample 3" in str(report) and len(skipping.fingerprint()["train"]) > 8
    with refused("data", "line 4", "twice"):
        ready(MultiLabelImages(train=train))
    with refused("data", "no column 'lables'", "data.label_column"):
        ready(MultiLabelImages(train=train, label_column="lables"))
    with refused("data.label_columns", "classification", "MultiLabelImages"):
        ImageTable(train=train, label_columns=["a", "b"])
    with refused("data.label_column", "no effect", "data.label_columns"):
        ImageTable(train=train, label_column="a", label_columns=["b"], task="regression")
    with refused("data.shots_per_class", "several labels"):
        MultiLabelImages(train=train, shots_per_class=2)
    (tmp_path / "images/train0.png").unlink()
    with refused("data", "train0.png", "No such file"):
        ready(ImageTable(train=train, label_column="labels")).describe()
    outside = tmp_path / "b.csv"
    outside.write_text("file_name,labels\n../elsewhere.png,a;b\n")
    with refused("data", "outside", "data.image_root"):
        ready(MultiLabelImages(train=str(outside)))
    with refused("data.labels", "'circle'"):
        ready(CocoLabels(root=str(write_coco(tmp_path / "coco")), labels=["disc", "circle"]))


def test_links_that_lead_elsewhere_are_refused_with_the_folder_that_works(tmp_path: Path) -> None:
    write_listed(tmp_path / "true", {"label": lambda i: str(i % 2)})
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/images").symlink_to(tmp_path / "true/images")
    table = tmp_path / "tables/train.csv"
    table.write_text((tmp_path / "true/train.csv").read_text())
    place = str(tmp_path / "true")
    said = f"is a link to {place}/images/train0.png, outside", f"set data.image_root to {place}, or copy"
    with refused("data", *said):
        ready(ImageTable(train=str(table)))
    assert len(ready(ImageTable(train=str(table), image_root=place)).splits["train"].rows)
    (tmp_path / "other/images").mkdir(parents=True)
    (tmp_path / "other/images/train0.png").symlink_to(tmp_path / "true/images/train5.png")
    table = tmp_path / "other/train.csv"
    table.write_text((tmp_path / "true/train.csv").read_text())
    with refused("data", "is a link to", "copy the images there, not as links") as error:
        ready(ImageTable(train=str(table)))
    assert "image_root" not in str(error.value), "no folder has the file under this name"


def test_predicting_needs_no_labels(tmp_path: Path) -> None:
    data = marked(tmp_path)
    alone = MultiLabelImages(predict=str(tmp_path / "images"))
    alone.setup("predict")
    assert len(alone.splits["predict"]) == 32 and data.files["train"] is not None
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    one = ImageTable(predict=str(tmp_path / "one.png"), task="regression")
    one.setup("predict")
    assert len(one.splits["predict"]) == 1
    with refused("data.predict", "is not a folder"):
        CocoLabels(predict=str(tmp_path / "none")).setup("predict")
