"""Writes small data sets of images with boxes, in the formats of the field."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LABELS = ("disc", "square")


def scene(
    seed: int, height: int = 48, width: int = 64
) -> tuple[np.ndarray, list[tuple[float, float, float, float, str]]]:
    """A grey image uint8 `[H, W, 3]` with one to three bright objects, and their boxes: left, top, right, bottom, class."""
    rng = np.random.default_rng(seed)
    image = rng.integers(60, 90, (height, width, 3), dtype=np.uint8)
    boxes = []
    for _ in range(int(rng.integers(1, 4))):
        side = int(rng.integers(10, 20))
        left, top = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        label = LABELS[int(rng.integers(2))]
        ys, xs = np.mgrid[:side, :side] - (side - 1) / 2
        inside = xs**2 + ys**2 <= (side / 2) ** 2 if label == "disc" else np.ones((side, side), dtype=bool)
        image[top : top + side, left : left + side][inside] = (230, 60, 60) if label == "disc" else (60, 60, 230)
        boxes.append((float(left), float(top), float(left + side), float(top + side), label))
    return image, boxes


def write_images(folder: Path, count: int, seed: int = 0) -> list[list[tuple[float, float, float, float, str]]]:
    """Writes `0.png`, `1.png`, … into a folder; returns their boxes."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        image, boxes = scene(seed * 1000 + number)
        Image.fromarray(image).save(folder / f"{number}.png")
        found.append(boxes)
    return found


def coco_of(
    boxes: Sequence[Sequence[tuple[float, float, float, float, str]]], ids: Sequence[int] = (3, 7)
) -> dict[str, Any]:
    """Boxes of `0.png`, `1.png`, … of 64×48 pixels as COCO's JSON, with categories of these ids."""
    number = dict(zip(LABELS, ids, strict=True))
    annotations = [
        {
            "id": 1,
            "image_id": 10 + image,
            "category_id": number[label],
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "iscrowd": 0,
        }
        for image, of in enumerate(boxes)
        for left, top, right, bottom, label in of
    ]
    for at, annotation in enumerate(annotations, 1):
        annotation["id"] = at
    return {
        "images": [{"id": 10 + n, "file_name": f"{n}.png", "height": 48, "width": 64} for n in range(len(boxes))],
        "annotations": annotations,
        "categories": [{"id": ids[1], "name": LABELS[1]}, {"id": ids[0], "name": LABELS[0]}],
    }


def write_coco(root: Path, train: int = 24, val: int = 6, ids: Sequence[int] = (3, 7)) -> Path:
    """`annotations/instances_train2017.json` beside `train2017/`, and the same for val."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate((("train", train), ("val", val))):
        held = coco_of(write_images(root / f"{split}2017", count, seed), ids)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(held))
    return root


def write_voc(
    root: Path, train: int = 24, val: int = 6, first: int = 1, test: int = 0, names: Sequence[str] = LABELS
) -> Path:
    """`JPEGImages`, `Annotations` and `ImageSets/Main`; corners count from `first`."""
    called = dict(zip(LABELS, names, strict=True))
    boxes = [[(*box[:4], called[box[4]]) for box in of] for of in write_images(root / "JPEGImages", train + val + test)]
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for number, of in enumerate(boxes):
        objects = "".join(voc_object(box, first) for box in of)
        size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
        (root / "Annotations" / f"{number}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    every = {"train": range(train), "val": range(train, train + val), "test": range(train + val, train + val + test)}
    for split, numbers in every.items():
        if numbers:
            (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{n}\n" for n in numbers))
    return root


def voc_object(box: tuple[float, float, float, float, str], first: int = 1, difficult: int = 0) -> str:
    """An object of VOC's XML."""
    left, top, right, bottom, label = box
    corners = {"xmin": left + first, "ymin": top + first, "xmax": right, "ymax": bottom}
    inner = "".join(f"<{name}>{value:g}</{name}>" for name, value in corners.items())
    return f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>{inner}</bndbox></object>"


def write_yolo(root: Path, train: int = 24, val: int = 6) -> Path:
    """`images/train` beside `labels/train`, the same for val, and data.yaml."""
    for seed, (split, count) in enumerate((("train", train), ("val", val))):
        boxes = write_images(root / "images" / split, count, seed)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        for number, of in enumerate(boxes):
            lines = [
                f"{LABELS.index(label)} {(l + r) / 128:.8f} {(t + b) / 96:.8f} {(r - l) / 64:.8f} {(b - t) / 48:.8f}\n"
                for l, t, r, b, label in of  # noqa: E741
            ]
            (root / "labels" / split / f"{number}.txt").write_text("".join(lines))
    (root / "data.yaml").write_text(f"names: [{', '.join(LABELS)}]\n")
    return root


def write_boxed_table(root: Path, train: int = 24, val: int = 6) -> dict[str, str]:
    """Parquet files with the columns image and objects."""
    from datasets import ClassLabel, Dataset, Features, Sequence, Value
    from datasets import Image as ImageFeature

    objects = {"bbox": Sequence(Value("float32"), length=4), "category": ClassLabel(names=list(LABELS))}
    features, files = Features({"image": ImageFeature(), "objects": Sequence(objects)}), {}
    for seed, (split, count) in enumerate((("train", train), ("val", val))):
        boxes = write_images(root / split, count, seed)
        rows = [
            {
                "image": {"bytes": (root / split / f"{number}.png").read_bytes(), "path": None},
                "objects": {
                    "bbox": [[left, top, right - left, bottom - top] for left, top, right, bottom, _ in of],
                    "category": [LABELS.index(box[4]) for box in of],
                },
            }
            for number, of in enumerate(boxes)
        ]
        files[split] = str(root / f"{split}.parquet")
        Dataset.from_list(rows, features=features).to_parquet(files[split])
    return files
