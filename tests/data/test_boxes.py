"""Images with boxes: formats, what is clipped, left out and refused, and moves of images with their boxes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from sft_lightning.core.structures import InputSpec
from sft_lightning.data import CocoDetection, CocoLabels, HubDetection, SFTDataModule, VOCDetection, YOLOFolder
from sft_lightning.data.sampler import Key
from sft_lightning.data.vision.boxed import Boxed, BoxedFiles
from sft_lightning.data.vision.boxes import Box
from sft_lightning.data.vision.voc_boxes import counts_from
from sft_lightning.tasks.object_detection import FIXED
from tests.data.box_files import (
    LABELS,
    coco_of,
    scene,
    voc_object,
    write_boxed_table,
    write_coco,
    write_images,
    write_voc,
    write_yolo,
)
from tests.refused import refused

SPEC = InputSpec("boxes", channels=3, network="a network")
SETTINGS: dict[str, Any] = {"batch_size": 4, "seed": 0, "image_size": 64}


def ready(cls: type[SFTDataModule], *given: Any, **settings: Any) -> SFTDataModule:
    data = cls(*given, **{**SETTINGS, **settings})
    data.setup()
    data.settle(SPEC)
    return data


def batch_of(data: SFTDataModule, split: str = "train", epoch: int = 0, count: int = 4) -> dict[str, Any]:
    return data.splits[split].__getitems__([Key(position, epoch) for position in range(count)])


def truth(data: SFTDataModule, split: str = "train") -> list[list[tuple[Any, ...]]]:
    """Each image's boxes and class names."""
    samples = data.splits[split].samples
    assert isinstance(samples, Boxed) and samples.truth is not None and data.task_info is not None
    every = (samples.truth.of(row) for row in data.splits[split].rows.tolist())
    return [[(*box, data.task_info.labels[n]) for box, n in zip(b.tolist(), c, strict=True)] for b, c, _ in every]


def coco(root: Path, change: Callable[[dict[str, Any]], None] | None = None, count: int = 8) -> Path:
    """`train.json` beside `images`, changed."""
    held = coco_of(write_images(root / "images", count))
    if change is not None:
        change(held)
    (root / "train.json").write_text(json.dumps(held))
    return root


FORMATS: dict[str, Callable[[Path], SFTDataModule]] = {
    "coco": lambda root: ready(CocoDetection, str(write_coco(root))),
    "voc": lambda root: ready(VOCDetection, str(write_voc(root)), val_set=None, val_fraction=0.2),
    "voc from 0": lambda root: ready(VOCDetection, str(write_voc(root, first=0)), first_pixel=0),
    "yolo": lambda root: ready(YOLOFolder, str(write_yolo(root))),
    "hub": lambda root: ready(HubDetection, data_files=write_boxed_table(root)),
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_same_boxes_and_classes(tmp_path: Path, form: str) -> None:
    data = FORMATS[form](tmp_path)
    assert data.task_info is not None and data.task_info.labels == list(LABELS)
    rows = data.splits["train"].rows.tolist()
    for row, found in zip(rows, truth(data), strict=True):
        samples = data.splits["train"].samples
        expected = scene(int(samples.paths[row].stem) if isinstance(samples, BoxedFiles) else row)[1]
        assert [box[4] for box in found] == [box[4] for box in expected]
        for one, other in zip(found, expected, strict=True):
            assert one[:4] == pytest.approx(other[:4], abs=1e-4)
    assert f"{sum(map(len, truth(data)))} in train" in data.describe()


def test_boxes_lie_on_their_objects_in_the_networks_square(tmp_path: Path) -> None:
    """64×48 in a square of 128: twice the size, and black below."""
    data = ready(CocoDetection, str(write_coco(tmp_path)), image_size=128)
    batch = batch_of(data, count=6)
    assert batch["count"] == 6 and batch["x"]["size"].tolist() == [[96, 128]] * 6
    for row, image, y in zip(batch["rows"], batch["x"]["image"], batch["y"], strict=True):
        boxes = [[v * 2 for v in box[:4]] for box in scene(row)[1]]
        assert (y[y[:, 4] >= 0][:, :4] / FIXED).tolist() == boxes
        assert not image[:, 96:].any()
        left, top, right, bottom = map(int, boxes[-1])
        centre = image[:, (top + bottom) // 2, (left + right) // 2]
        assert centre.max() > 200, "the last object is not where its box is"
    moved = data.device_transform(batch)
    assert moved["x"]["image"].dtype == torch.float32 and not moved["x"]["image"][:, :, 96:].any()


@pytest.mark.parametrize("moves", [["flip"], ["flip_vertical"], ["crop"], ["crop", "flip", "flip_vertical"]])
def test_moves_take_boxes_along_and_are_a_function_of_seed_epoch_and_row(tmp_path: Path, moves: list[str]) -> None:
    data = ready(CocoDetection, str(write_coco(tmp_path)), augment=moves)
    one, again, other = (batch_of(data, epoch=epoch, count=12) for epoch in (1, 1, 2))
    alone = data.splits["train"].__getitems__([Key(7, 1)])
    assert torch.equal(one["x"]["image"], again["x"]["image"]) and torch.equal(one["y"], again["y"])
    assert torch.equal(alone["x"]["image"][0], one["x"]["image"][7]), "a move depends on the batch"
    assert not torch.equal(one["x"]["image"], other["x"]["image"])
    for image, y, size in zip(one["x"]["image"], one["y"], one["x"]["size"].tolist(), strict=True):
        for left, top, right, bottom, label in (y[y[:, 4] >= 0] / torch.tensor([FIXED] * 4 + [1])).tolist():
            assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
            inside = image[:, round(top) : round(bottom), round(left) : round(right)].float().mean((1, 2))
            assert inside[0 if label == 0 else 2] > 90, "a box does not lie on its object"


def test_a_crop_drops_boxes_of_which_little_is_left(tmp_path: Path) -> None:
    kept = []
    for share in (0.0, 1.0):
        data = ready(CocoDetection, str(write_coco(tmp_path)), augment=["crop"], min_visible=share, min_crop=0.3)
        kept.append(sum(int((batch_of(data, epoch=e, count=20)["y"][:, :, 4] >= 0).sum()) for e in range(3)))
    assert kept[1] < kept[0]
    with refused("data.min_visible", "crop"):
        CocoDetection(str(tmp_path), min_visible=0.5)


def test_crowds_are_not_trained_on_and_are_ignored_in_an_evaluation(tmp_path: Path) -> None:
    def crowd(held: dict[str, Any]) -> None:
        held["annotations"][0]["iscrowd"] = 1

    data = ready(CocoDetection, str(coco(tmp_path, crowd)), test_fraction=0.2, val_fraction=0.2)
    samples = data.splits["train"].samples
    assert isinstance(samples, Boxed)
    assert len(samples.trained_on(0)[1]) == len(scene(0)[1]) - 1
    picture = samples.beside([0])[0]
    assert picture.ignored.sum() == 1 and len(picture.boxes) == len(scene(0)[1])
    assert "1 box difficult or of crowds" in " ".join(data.remarks())


def test_what_does_not_fit_is_clipped_or_left_out_and_counted(tmp_path: Path) -> None:
    def spoil(held: dict[str, Any]) -> None:
        first, second, third, fourth = held["annotations"][:4]
        first["bbox"] = [-5, 10, 20, 20]
        second["bbox"] = [10, 10, 0, 5]
        third["bbox"] = [100, 10, 20, 20]
        fourth["image_id"] = 999

    data = ready(CocoDetection, str(coco(tmp_path, spoil)), val_fraction=0.2)
    said = " ".join(data.remarks())
    for part in (
        "clipped 1 box to the image",
        "left out 1 box of no area",
        "left out 1 box outside the image",
        "left out 1 annotation of train.json without image",
        "category ids 3 to 7 have gaps",
    ):
        assert part in said, said


def test_classes_that_are_not_asked_for_are_left_out_and_their_images_stay(tmp_path: Path) -> None:
    data = ready(CocoDetection, str(coco(tmp_path)), labels=["square"], val_fraction=0.2)
    assert data.task_info is not None and data.task_info.labels == ["square"]
    assert len(data.splits["train"]) + len(data.splits["val"]) == 8
    assert "of classes that data.labels does not name" in " ".join(data.remarks())
    with refused("data.labels", "'squar'", "'square'"):
        ready(CocoDetection, str(tmp_path), labels=["squar"])


@pytest.mark.parametrize("given", ["xywh", "xyxy"])
def test_boxes_of_the_other_format_are_detected(tmp_path: Path, given: str) -> None:
    """As COCO has them when they are said to be corners, and corners when they are not."""

    def corners(held: dict[str, Any]) -> None:
        for one in held["annotations"]:
            left, top, width, height = one["bbox"]
            one["bbox"] = [left, top, left + width, top + height]

    root = coco(tmp_path, corners if given == "xywh" else None, 20)
    other = "xyxy" if given == "xywh" else "xywh"
    with refused("data", "fit as", f"set data.init_args.box_format {other}"):
        ready(CocoDetection, str(root), box_format=given)
    assert truth(ready(CocoDetection, str(root), box_format=other, val_fraction=0.2))


def test_boxes_that_may_be_of_either_format_are_pointed_out(tmp_path: Path) -> None:
    """All corners near the upper left: as sizes they fit too."""

    def near(held: dict[str, Any]) -> None:
        for at, one in enumerate(held["annotations"]):
            one["bbox"] = [at % 7, at % 5, at % 7 + 9, at % 5 + 9]

    root = coco(tmp_path, near, 20)
    said = " ".join(ready(CocoDetection, str(root), val_fraction=0.2).remarks())
    assert "left, top, right, bottom too" in said and "box_format xyxy" in said
    sure = ready(CocoDetection, str(coco(tmp_path / "sure", None, 20)), val_fraction=0.2)
    assert "too:" not in " ".join(sure.remarks())


def test_images_that_are_not_there_fail_or_are_counted(tmp_path: Path) -> None:
    root = coco(tmp_path)
    (root / "images" / "2.png").unlink()
    with refused("data", "2.png", "no such file", "skip"):
        ready(CocoDetection, str(root))
    data = ready(CocoDetection, str(root), on_bad_sample="skip", val_fraction=0.2)
    assert data.skipped_report(False)["train"]["count"] == 1
    for path in (root / "images").iterdir():
        path.unlink()
    with refused("data", "not one image", "data.init_args.images"):
        ready(CocoDetection, str(root))


@pytest.mark.parametrize("name", ["../../0.png", "..\\..\\0.png", "{whole}"])
@pytest.mark.parametrize("cls", [CocoDetection, CocoLabels])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(cls: Any, name: str, tmp_path: Path) -> None:
    secret = tmp_path / "0.png"
    Image.new("RGB", (64, 48)).save(secret)
    settings = {**SETTINGS, "val_fraction": 0.2}

    def named(name: str) -> Path:
        return coco(tmp_path / "data", lambda held: held["images"][0].update(file_name=name))

    out = name.replace("{whole}", str(secret))
    with refused("data", "train.json", repr(out), "outside", tmp_path / "data"):
        cls(str(named(out)), **settings).setup()
    for inside in ("../images/0.png", str(tmp_path / "data/images/0.png")):
        cls(str(named(inside)), **settings).setup()
    (tmp_path / "data/images").rename(tmp_path / "elsewhere")
    (tmp_path / "data/images").symlink_to(tmp_path / "elsewhere")
    cls(str(named("0.png")), **settings).setup()


def test_an_image_of_another_size_than_its_annotation_is_refused(tmp_path: Path) -> None:
    root = coco(tmp_path)
    Image.new("RGB", (48, 64)).save(root / "images" / "0.png")
    data = CocoDetection(str(root), **SETTINGS, val_fraction=0.2)
    data.setup()
    with refused("data", "0.png", "64×48 pixels", "48×64"):
        data.settle(SPEC)
        batch_of(data, count=6)


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], tuple[str, ...]]] = {
    "a bbox of three numbers": (lambda held: held["annotations"][0]["bbox"].pop(), ("bbox", "four numbers")),
    "no list of images": (lambda held: held.pop("images"), ("lists", "images")),
    "an unknown category": (
        lambda held: held["annotations"][0].update(category_id=5),
        ("image_id 10", "category 5", "not defined", "categories"),
    ),
    "two images of one id": (lambda held: held["images"][1].update(id=10), ("two images", "10")),
    "an id that is a list": (lambda held: held["images"][0].update(id=[1]), ("id [1]",)),
    "a category that is a list": (lambda held: held["annotations"][0].update(category_id=[1]), ("category [1]",)),
    "a height that is no number": (lambda held: held["images"][0].update(height="tall"), ("height and width", "tall")),
    "an endless width": (lambda held: held["images"][0].update(width=float("inf")), ("height and width", "inf")),
    "ids of images that are texts in annotations": (
        lambda held: [one.update(image_id=str(one["image_id"])) for one in held["annotations"]],
        ("no annotation", "image_id"),
    ),
    "two categories of one name": (lambda held: held["categories"][0].update(name="disc"), ("two categories",)),
    "a bbox that is not finite": (
        lambda held: held["annotations"][0].update(bbox=[1, 2, float("nan"), 4]),
        ("finite",),
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_json_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    change, words = DAMAGED[what]

    def spoil(held: dict[str, Any]) -> None:
        change(held)

    with refused("data", *words):
        ready(CocoDetection, str(coco(tmp_path, spoil)))


@pytest.mark.parametrize("said", ["1", "true", "True", "0", "false", ""])
def test_objects_are_difficult_by_a_number_or_a_word(tmp_path: Path, said: str) -> None:
    root = write_voc(tmp_path)
    path = root / "Annotations" / "0.xml"
    path.write_text(path.read_text().replace("<difficult>0", f"<difficult>{said}"))
    samples = ready(VOCDetection, str(root)).splits["train"].samples
    assert set(samples.truth.of(0)[2].tolist()) == {said in ("1", "true", "True")}


def test_vocs_difficult_objects_and_damaged_xml(tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    box = scene(0)[1][0]
    size = "<size><width>64</width><height>48</height></size>"
    (root / "Annotations" / "0.xml").write_text(f"<annotation>{size}{voc_object(box, difficult=1)}</annotation>")
    data = ready(VOCDetection, str(root))
    samples = data.splits["train"].samples
    assert isinstance(samples, Boxed) and not len(samples.trained_on(0)[1])
    assert "1 box difficult" in " ".join(data.remarks())
    strange, endless = f"<?xml version='1.0' encoding='klingon'?><a>{size}</a>", f"<a>{size}</a>".replace("64", "1e999")
    unread = (text for text in ("<annotation><object>", strange, endless))
    for text, words in (*((text, ("cannot be read",)) for text in unread), ("<!ENTITY a 'b'>", ("entities",))):
        (root / "Annotations" / "1.xml").write_text(text)
        with refused("data", "1.png", "1.xml", *words, "skip"):
            ready(VOCDetection, str(root))
    data = ready(VOCDetection, str(root), on_bad_sample="skip")
    assert data.skipped_report(False)["train"]["count"] == 1


LINES = {
    "0 0.5 0.5 0.2": ("class x y width height",),
    "9 0.5 0.5 0.2 0.2": ("class 9", "names 2"),
    "0 50 40 20 10": ("outside 0 to 1", "divide x"),
    "a b c d e": ("class x y width height",),
    "inf 0.5 0.5 0.2 0.2": ("class x y width height",),
    "0 nan 0.5 0.2 0.2": ("class x y width height",),
}


@pytest.mark.parametrize("line", LINES)
def test_wrong_lines_of_yolo_are_refused_with_their_place(tmp_path: Path, line: str) -> None:
    root = write_yolo(tmp_path)
    (root / "labels" / "train" / "3.txt").write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with refused("data", "3.txt:2", *LINES[line]):
        ready(YOLOFolder, str(root))


def test_yolo_without_names_or_label_files_says_what_is_taken(tmp_path: Path) -> None:
    root = write_yolo(tmp_path)
    (root / "data.yaml").unlink()
    (root / "labels" / "train" / "0.txt").unlink()
    (root / "labels" / "train" / "1.txt").write_text("1 0.1 0.1 0.5 0.1 0.5 0.6\n")
    data = ready(YOLOFolder, str(root))
    assert data.task_info is not None and data.task_info.labels == ["0", "1"]
    said = " ".join(data.remarks())
    assert "1 image without a label file" in said and "numbers 0 to 1" in said
    assert truth(data)[1] == [pytest.approx((6.4, 4.8, 32, 28.8, "1"))] or truth(data)[1][0][4] == "1"


def test_repeated_lines_of_yolo_count_once_and_are_counted(tmp_path: Path) -> None:
    root, lines = (
        write_yolo(tmp_path),
        ["0 0.5 0.5 0.2 0.2", "1 0.5 0.5 0.2 0.2", "0 0.50 0.5 0.2 0.2", "0 0.3 0.5 0.2 0.2"],
    )
    (root / "labels" / "train" / "0.txt").write_text("\n".join([*lines, lines[0]]))
    data = ready(YOLOFolder, str(root))
    assert [box[4] for box in truth(data)[0]] == ["disc", "square", "disc"]
    assert any("left out 2 repeated lines of label files" in line for line in data.remarks())


@pytest.mark.parametrize("count", [1, 3, "two"])
def test_a_number_of_classes_that_is_not_that_of_their_names_is_refused(tmp_path: Path, count: object) -> None:
    root = write_yolo(tmp_path)
    with (root / "data.yaml").open("a") as file:
        file.write(f"nc: {count}\n")
    with refused("data", "data.yaml", f"nc {count!r}", "names 2"):
        ready(YOLOFolder, str(root))


@pytest.mark.parametrize("place", ["", "labels", "labels/train"])
def test_without_data_yaml_a_list_of_classes_names_them(tmp_path: Path, place: str) -> None:
    root = write_yolo(tmp_path)
    (root / "data.yaml").unlink()
    (root / place / "classes.txt").write_text("a disc\r\na square\r\nnone\r\n\r\n")
    data = ready(YOLOFolder, str(root))
    assert data.task_info is not None and data.task_info.labels == ["a disc", "a square", "none"]
    assert not any("numbers" in line for line in data.remarks())
    (root / "labels" / "val" / "classes.txt").write_text("a square\na disc\n")
    with refused("data", "classes.txt", "different classes", "data.yaml"):
        ready(YOLOFolder, str(root))
    (root / "data.yaml").write_text("names: [x, y]\n")
    assert ready(YOLOFolder, str(root)).task_info.labels == ["x", "y"]


def test_files_as_windows_writes_them_are_read(tmp_path: Path) -> None:
    """Marks of byte order, backslashes, line ends; and names that are too long are those of missing images."""

    def windows(held: dict[str, Any]) -> None:
        for one in held["images"]:
            one["file_name"] = "images\\" + one["file_name"]
        held["images"][0]["file_name"] = "a" * 300

    root = coco(tmp_path / "coco", windows)
    (root / "train.json").write_text("\ufeff" + (root / "train.json").read_text())
    data = ready(CocoDetection, str(root), on_bad_sample="skip", val_fraction=0.2)
    assert data.skipped_report(False)["train"]["count"] == 1
    root = write_yolo(tmp_path / "yolo")
    (root / "labels" / "train" / "0.txt").write_bytes("\ufeff0 0.5 0.5 0.2 0.2\r\n1 0.2 0.2 0.2 0.2\r\n".encode())
    assert [box[4] for box in truth(ready(YOLOFolder, str(root)))[0]] == list(LABELS)


def test_yolo_says_what_it_leaves_out_and_counts_no_rounding(tmp_path: Path) -> None:
    root = write_yolo(tmp_path)
    (root / "labels" / "train" / "0.txt").write_text("0 0.1 0.1 0.2000001 0.2\n")
    (root / "labels" / "train" / "other.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    for path in (root / "labels" / "val").iterdir():
        path.unlink()
    said = ready(YOLOFolder, str(root)).remarks()
    assert "left out 1 label file without image" in said and "left out images/val, which has no label files" in said
    assert not any("clipped" in line for line in said)


def hub(root: Path, *objects: Any) -> SFTDataModule:
    """Images with these objects in a parquet file, read."""
    from datasets import Dataset
    from datasets import Image as ImageFeature

    write_images(root, len(objects))
    images = [{"bytes": (root / f"{n}.png").read_bytes(), "path": None} for n in range(len(objects))]
    table = Dataset.from_dict({"image": images, "objects": list(objects)}).cast_column("image", ImageFeature())
    table.to_parquet(str(root / "train.parquet"))
    return ready(HubDetection, data_files={"train": str(root / "train.parquet")}, val_fraction=0.3)


def test_objects_of_tables_may_be_named_or_missing_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    box = [1.0, 2.0, 10.0, 10.0]
    named = {"bbox": [box], "category": ["cat"]}
    data = hub(tmp_path / "named", named, {"bbox": None, "category": None}, None, named, named, named)
    assert data.task_info is not None and data.task_info.labels == ["cat"]
    one, three = {"bbox": [box], "category": [0]}, {"bbox": [box[:3]], "category": [0]}
    with refused("data", "row 1", "[1.0, 2.0, 10.0]", "four"):
        hub(tmp_path / "three", one, three)
    with refused("data", "category None"):
        hub(tmp_path / "none", one, {"bbox": [box], "category": [None]})


def test_an_image_without_boxes_is_a_sample(tmp_path: Path) -> None:
    root = write_yolo(tmp_path)
    (root / "labels" / "train" / "0.txt").write_text("")
    batch = batch_of(ready(YOLOFolder, str(root)), count=2)
    assert batch["count"] == 2 and (batch["y"][0, :, 4] == -1).all() and (batch["y"][1, :, 4] >= 0).any()
    only = ready(YOLOFolder, str(root)).splits["train"].__getitems__([Key(0, 0)])
    assert only["y"].shape == (1, 1, 5) and np.isclose(only["select"].sum(), 1)


def test_settings_without_effect_are_refused(tmp_path: Path) -> None:
    with refused("data.image_size", "32"):
        CocoDetection(str(tmp_path), image_size=100)
    with refused("data.classes", "labels"):
        CocoDetection(str(tmp_path), classes=["a", "b"])
    with refused("data.root", "training annotations"):
        ready(CocoDetection, str(tmp_path))
    with refused("network", "does not detect"):
        data = CocoDetection(str(write_coco(tmp_path)), **SETTINGS)
        data.setup()
        data.settle(InputSpec("image", channels=3, network="a network"))


def test_a_few_corners_at_0_do_not_shift_the_boxes_of_all_files() -> None:
    def boxes(*lefts: float) -> list[Box]:
        return [Box(left, 5, left + 4, 9, "a") for left in lefts]

    assert counts_from(boxes(3, 1, 2)) == (1, "") and counts_from(boxes(3, 0, 2)) == (0, "")
    assert counts_from(boxes(1, 0, 1, 7)) == (1, ", as 2 boxes begin there, and 1 at 0")
    assert counts_from(boxes(0, 0, 1)) == (0, ", as 2 boxes begin there, and 1 at 1")
    with refused("data.first_pixel", "begin at 0", "set it to 0 or 1"):
        counts_from(boxes(0, 1))


def test_flags_of_crowds_that_are_too_few_are_refused(tmp_path: Path) -> None:
    files = write_boxed_table(tmp_path)
    table = datasets.Dataset.from_parquet(files["train"], cache_dir=str(tmp_path / "cache"))
    rows = table.cast_column("image", datasets.Image(decode=False)).to_list()
    for row in rows:
        count = len(row["objects"]["bbox"])
        row["objects"]["iscrowd"] = [False] * (count + (row is rows[1]))
    datasets.Dataset.from_list(rows).to_parquet(files["train"])
    data = HubDetection(data_files=files)
    with refused("data", "row 1 of train", "iscrowd"):
        data.setup()
