"""Tiny made-up image data sets, written in the formats that the real ones have on disk."""

import gzip
import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def pixels(count: int, side: int, channels: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[count, side, side, channels]` and class numbers, each class as often as the others, in mixed order."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(count) % classes)
    noise = rng.integers(0, 64, (count, side, side, channels))
    return (noise + (targets * (190 // classes))[:, None, None, None]).astype(np.uint8), targets


# ---- MNIST: four files of the IDX format, gzipped and unpacked ----


def idx(array: np.ndarray) -> bytes:
    """Magic number (uint8, number of dimensions), big-endian dimensions, bytes."""
    header = (0x0800 | array.ndim).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, name: str = "MNIST", train: int = 100, test: int = 30, seed: int = 0) -> None:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for prefix, count, shift in (("train", train, 0), ("t10k", test, 1)):
        images, labels = pixels(count, 28, 1, 10, seed + shift)
        for file, array in ((f"{prefix}-images-idx3-ubyte", images[..., 0]), (f"{prefix}-labels-idx1-ubyte", labels)):
            (raw / file).write_bytes(idx(array))
            (raw / f"{file}.gz").write_bytes(gzip.compress(idx(array), mtime=0))


# ---- CIFAR: pickled dicts of rows, red then green then blue ----


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, hundred: bool = False, seed: int = 0) -> None:
    """torchvision checks MD5 sums, so it is told those of these files."""
    from torchvision import datasets

    cls = datasets.CIFAR100 if hundred else datasets.CIFAR10
    classes = 100 if hundred else 10
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    sums: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    for which, size in (("train_list", 200 if hundred else 40), ("test_list", 100 if hundred else 20)):
        for number, (file, _) in enumerate(getattr(cls, which)):
            images, labels = pixels(size, 32, 3, classes, seed + number + (50 if which == "test_list" else 0))
            rows = images.transpose(0, 3, 1, 2).reshape(size, -1)
            content = {"data": rows, "fine_labels" if hundred else "labels": labels.tolist()}
            sums[which].append([file, dump(folder / file, content)])
    for which, value in sums.items():
        monkeypatch.setattr(cls, which, value)
    names = [f"class {i}" for i in range(classes)]
    digest = dump(folder / cls.meta["filename"], {cls.meta["key"]: names})
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": digest})


def dump(file: Path, content: Any) -> str:
    data = pickle.dumps(content)
    file.write_bytes(data)
    return hashlib.md5(data).hexdigest()


# ---- files in folders ----


def write_folder(root: Path, classes: dict[str, int], side: int = 12, seed: int = 0, suffix: str = ".png") -> None:
    """`root/CLASS/0.png` and so on; widths differ from heights."""
    for number, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i, image in enumerate(pixels(count, side, 3, 1, seed + number)[0]):
            Image.fromarray(image[: side - 2]).save(root / name / f"{i}{suffix}")


def write_listed(
    root: Path, columns: dict[str, Callable[[int], str]], sizes: tuple[int, int] = (24, 8), side: int = 12
) -> dict[str, str]:
    """`train.csv` and `test.csv`, which list images in `root/images` in the column file_name, with a value of each column by
    the row's number; returns their paths. The higher the number, the lighter the image.
    """
    rng, files = np.random.default_rng(0), {}
    (root / "images").mkdir(parents=True)
    for split, count in zip(("train", "test"), sizes, strict=True):
        lines = [",".join(["file_name", *columns])]
        for i in range(count):
            image = rng.integers(0, 64, (side, side, 3)) + 180 * i // count
            Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{split}{i}.png")
            lines.append(",".join([f"images/{split}{i}.png", *(f'"{of(i)}"' for of in columns.values())]))
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
        files[split] = str(root / f"{split}.csv")
    return files


# ---- parquet, as the hub serves image data sets ----


def table(count: int, seed: int, side: int = 8, labels: Any = None) -> Any:
    """A `datasets` table with an Image and a ClassLabel (or the `labels` given)."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    images, targets = pixels(count, side, 3, 3, seed)
    kinds = {None: ClassLabel(names=["ant", "bee", "cat"]), int: Value("int64"), str: Value("string")}
    values = targets.tolist() if labels is None else [labels[t] for t in targets]
    kind = kinds[None if labels is None else type(labels[0])]
    rows = {"image": [{"bytes": png(i), "path": None} for i in images], "label": values}
    return Dataset.from_dict(rows, features=Features({"image": ImageFeature(), "label": kind}))


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


# ---- images and masks ----


def squares(count: int, side: int = 12, classes: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images `[count, side, side, 3]` with a lighter square of each class but the first, and masks of class numbers."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, side, side, 3))
    masks = np.zeros((count, side, side), dtype=np.uint8)
    for image, mask in zip(images, masks, strict=True):
        for number in range(1, classes):
            top, left = rng.integers(0, side - side // 3, 2)
            place = np.s_[top : top + side // 3, left : left + side // 3]
            image[place] += 190 * number // (classes - 1)
            mask[place] = number
    return images.astype(np.uint8), masks


def write_masks(
    root: Path,
    count: int,
    images: str = "images",
    masks: str = "masks",
    values: Any = (0, 255),
    ending: str = "",
    **kwargs: Any,
) -> None:
    """`root/images/0.png` and `root/masks/0.png` and so on; `values` are the masks' values by class."""
    pixels, numbers = squares(count, classes=len(values), **kwargs)
    for name, folder in ((images, root / images), (masks, root / masks)):
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            array = pixels[i] if name == images else np.array(values, dtype=np.uint8)[numbers[i]]
            Image.fromarray(array).save(folder / f"{i}{'' if name == images else ending}.png")


def write_masked_table(root: Path, column: str = "annotation", sizes: tuple[int, int] = (16, 8)) -> dict[str, str]:
    """`train.parquet` and `test.parquet` with images and masks, as the hub has them; returns their paths."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    files = {}
    for split, count in zip(("train", "test"), sizes, strict=True):
        images, masks = squares(count, classes=3, seed=len(split))
        rows: dict[str, Any] = {
            name: [{"bytes": png(one), "path": None} for one in of] for name, of in (("image", images), (column, masks))
        }
        features = Features({"image": ImageFeature(), column: ImageFeature()})
        Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}.parquet")
        files[split] = str(root / f"{split}.parquet")
    return files
