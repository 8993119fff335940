"""Masks and folders that are easily misread: each is read right, refused, or said."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sft_lightning.data import VOCSegmentation
from tests.data.test_contract import voc
from tests.data.test_masks import pairs, ready
from tests.data.vision_files import squares, write_masks
from tests.refused import refused


def pair(root: Path, number: int, image: Image.Image, mask: Image.Image, suffix: str = ".png", **saved: Any) -> None:
    for name in ("images", "masks"):
        (root / name).mkdir(exist_ok=True)
    image.save(root / "images" / f"{number}{suffix}", **saved)
    mask.save(root / "masks" / f"{number}.png")


def write_splits(root: Path, *splits: str) -> None:
    """`images/SPLIT` and `masks/SPLIT`."""
    for seed, split in enumerate(splits):
        write_masks(root / "x", 4, seed=seed)
        for name in ("images", "masks"):
            (root / name).mkdir(exist_ok=True)
            (root / "x" / name).rename(root / name / split)
    (root / "x").rmdir()


@pytest.mark.parametrize("side", [9, 25, 80])
def test_a_resized_mask_is_pillows_to_the_nearest(side: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        image, mask = rng.integers(0, 255, (50, 37, 3)), rng.integers(0, 3, (50, 37))
        pair(tmp_path, i, Image.fromarray(image.astype(np.uint8)), Image.fromarray(mask.astype(np.uint8)))
    data = ready(tmp_path, image_size=side)
    rows = sorted(data.splits["train"].rows.tolist())
    files = [Image.open(tmp_path / "masks" / f"{i}.png") for i in rows]
    expected = np.stack([np.array(file.resize((side, side), Image.Resampling.NEAREST)) for file in files])
    assert torch.equal(pairs(data)[1], torch.from_numpy(expected).long())


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", [6, 9])
def test_a_mask_lies_on_its_image_as_that_is_turned_by_exif(suffix: str, orientation: int, tmp_path: Path) -> None:
    pixels = np.full((20, 10, 3), 30, dtype=np.uint8)
    pixels[:8, :4] = 220
    exif = Image.Exif()
    exif[0x0112] = orientation
    for i in range(4):
        mask = Image.fromarray((pixels[..., 0] > 120).astype(np.uint8))
        mask.getexif()[0x0112] = orientation
        pair(tmp_path, i, Image.fromarray(pixels), ImageOps.exif_transpose(mask), suffix, exif=exif)
    image, mask = pairs(ready(tmp_path, image_size=20))
    assert torch.equal(image.float().mean(1) > 120, mask == 1)
    if orientation == 6:
        for file in (tmp_path / "masks").iterdir():
            Image.open(file).rotate(90, expand=True).save(file)
        with refused("data", "20×10", "10×20"):
            pairs(ready(tmp_path, image_size=20))


def grey(values: np.ndarray, bits: int) -> bytes:
    """A PNG of grey with few bits, which Pillow cannot write."""
    rows = ["".join(f"{v:0{bits}b}" for v in row) for row in values]
    data = b"".join(
        b"\0" + int(row.ljust(-len(row) // 8 * -8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows
    )
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_has_the_values_of_the_file(bits: int, tmp_path: Path) -> None:
    write_masks(tmp_path, 4, values=(0, 1, 2))
    before = pairs(ready(tmp_path))[1]
    for file in (tmp_path / "masks").iterdir():
        file.write_bytes(grey(np.array(Image.open(file)), bits))
    assert torch.equal(pairs(ready(tmp_path))[1], before)


def test_classes_that_no_training_mask_has_are_said_and_one_class_is_refused(tmp_path: Path) -> None:
    write_masks(tmp_path, 4)
    with refused("data", "one class (ground)", "0, 255"):
        ready(tmp_path, mask_values={"ground": 0, "cell": 1})
    with refused("data", "one class"):
        ready(tmp_path, labels=["ground", "cell"], ignore_index=255)
    said = ready(tmp_path, mask_values={"ground": 0, "cell": 255, "wall": 7}).remarks()
    assert any("no training mask has wall" in note for note in said)
    write_masks(tmp_path / "gaps", 4, values=(0, 2, 4))
    assert any("no training mask has 1, 3" in note for note in ready(tmp_path / "gaps").remarks())


def test_a_value_to_ignore_is_refused_where_classes_are_colours(tmp_path: Path) -> None:
    write_masks(tmp_path, 4)
    with refused("data.ignore_index", "no effect"):
        ready(tmp_path, mask_values={"a": "black", "b": "white"}, ignore_index=255)


def test_masks_of_0_and_1_beside_masks_of_0_and_255_are_refused_unless_one_says_what_255_is(tmp_path: Path) -> None:
    write_masks(tmp_path, 4)
    for name in ("0.png", "1.png"):
        mask = Image.open(tmp_path / "masks" / name)
        mask.convert("1").save(tmp_path / "masks" / name)
    with refused("data", "255", "data.ignore_index"):
        ready(tmp_path)
    assert ready(tmp_path, ignore_index=255).task_info.num_outputs == 2


def test_smoothed_masks_are_not_taken_for_masks_of_many_classes(tmp_path: Path) -> None:
    images, masks = squares(60, side=96)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        soft = Image.fromarray(mask * 255).resize((64, 64)).rotate(7 * i, Image.Resampling.BICUBIC).resize((96, 96))
        pair(tmp_path, i, Image.fromarray(image), soft)
    with refused("data", "smoothed", "JPEG"):
        ready(tmp_path)


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 10, 20), (0, 255)])
def test_the_noise_of_jpeg_masks_is_not_taken_for_classes(tmp_path: Path, values: tuple[int, ...]) -> None:
    write_masks(tmp_path, 6, values=values, side=24)
    for path in list((tmp_path / "masks").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"), quality=80)
        path.unlink()
    with refused("data", ".jpg", "JPEG", "PNG"):
        ready(tmp_path)
    with refused("data", ".jpg", "JPEG", "PNG"):
        ready(tmp_path, labels=[str(value) for value in values])


def test_masks_of_floats_are_not_told_to_name_colours(tmp_path: Path) -> None:
    write_masks(tmp_path, 4)
    for path in list((tmp_path / "masks").iterdir()):
        Image.open(path).convert("F").save(path.with_suffix(".tif"))
        path.unlink()
    with refused("data", "type F", "PNG") as caught:
        ready(tmp_path)
    assert "colours" not in str(caught.value)


def test_two_folders_of_one_split_and_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    write_splits(tmp_path, "train", "val", "valid")
    with refused("data", "val, valid"):
        ready(tmp_path)
    patterns = {"images": "images/{split}/{name}.png", "masks": "masks/{split}/{name}.*"}
    with refused("data.images", "images/val/0.png", "images/valid/0.png"):
        ready(tmp_path, **patterns)
    for name in ("images", "masks"):
        (tmp_path / name / "valid").rename(tmp_path / name / "holdout")
    assert any("4 images" in note and "holdout" in note for note in ready(tmp_path, **patterns).remarks())
    Image.new("L", (12, 12)).save(tmp_path / "masks" / "train" / "1.bmp")
    with refused("data.masks", "1.bmp", "1.png"):
        ready(tmp_path, **patterns)


@pytest.mark.parametrize("inside", [True, False])
def test_split_folders_without_masks_are_left_out_and_said(inside: bool, tmp_path: Path) -> None:
    if inside:
        write_splits(tmp_path, "train", "val", "test")
        left, masks = tmp_path / "images" / "test", tmp_path / "masks" / "test"
        Image.new("RGB", (12, 12)).save(tmp_path / "images" / "loose.png")
    else:
        for seed, split in enumerate(("train", "val", "test")):
            write_masks(tmp_path / split, 4, seed=seed)
        left, masks = tmp_path / "test", tmp_path / "test" / "masks"
    masks.rename(tmp_path / "elsewhere")
    data = ready(tmp_path)
    assert data.splits.keys() == {"train", "val"}
    assert any(f"left out {left}" in note for note in data.remarks())
    assert not inside or any("1 image" in note and "loose.png" in note for note in data.remarks())
    if inside:
        (tmp_path / "masks" / "train").rename(tmp_path / "masks" / "a")
        (tmp_path / "masks" / "val").rename(tmp_path / "masks" / "b")
        with refused("data", "train", "masks", "{name}"):
            ready(tmp_path)
    else:
        write_masks(tmp_path, 4, seed=9)
        assert any("left out train" in note for note in ready(tmp_path).remarks())


def test_masks_may_lie_beside_their_images(tmp_path: Path) -> None:
    write_masks(tmp_path, 4)
    for name, ending in (("images", ""), ("masks", "_mask")):
        for file in list((tmp_path / name).iterdir()):
            file.rename(tmp_path / f"img_{file.stem}{ending}.png")
    data = ready(tmp_path, images="{name}.png", masks="{name}_mask.png")
    image, mask = pairs(data)
    assert len(image) == 3 and torch.equal(image.float().mean(1) > 120, mask == 1)
    with refused("data.masks", "img_0.png"):
        ready(tmp_path, images="{name}.png", masks="{name}.png")


def test_two_files_of_one_name_are_refused_in_vocs_layout_too(tmp_path: Path) -> None:
    voc(tmp_path, pytest.MonkeyPatch())
    file = next(p for p in sorted(tmp_path.rglob("*.png")) if p.parent.name == "SegmentationClass")
    Image.open(file).save(file.with_suffix(".bmp"))
    with refused("data", f"{file.stem}.bmp", f"{file.stem}.png"):
        VOCSegmentation(str(tmp_path)).setup()
