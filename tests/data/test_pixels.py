"""The same picture gives the same numbers, in whatever format it is stored; or it is refused by name."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sft_lightning.data import HubImages, ImageFolder
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.vision.image_folder import FileImages

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOUR = np.stack([RAMP, RAMP.T, 255 - RAMP], -1)


def read(image: Image.Image, path: Path, channels: int = 3, **options: Any) -> np.ndarray:
    image.save(path, **options)
    return stored(path, channels)


def stored(path: Path, channels: int = 3) -> np.ndarray:
    images = FileImages(path.parent, [path], None)
    images.channels = channels
    return images.read(0).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_v_over_257_rounded(suffix: str, tmp_path: Path) -> None:
    exact = read(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / f"exact{suffix}", 1)
    assert (exact[..., 0] == RAMP).all()
    values = np.random.default_rng(0).integers(0, 65536, (40, 30)).astype(np.uint16)
    values[0, :2] = 0, 65535
    found = read(Image.fromarray(values), tmp_path / f"any{suffix}", 1)[..., 0]
    assert (found == np.rint(values / 257)).all()


def test_floats_and_32_bit_integers_are_read_where_their_range_is_known_and_else_refused(tmp_path: Path) -> None:
    def refused(values: np.ndarray) -> str:
        with pytest.raises(BadSample) as error:
            read(Image.fromarray(values), tmp_path / "odd.tif")
        return str(error.value)

    light = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    assert (read(Image.fromarray(light), tmp_path / "f.tif", 1)[..., 0] == np.rint(light * 255)).all()
    assert (read(Image.fromarray(RAMP.astype(np.int32) * 257), tmp_path / "i.tif", 1)[..., 0] == RAMP).all()
    assert "odd.tif cannot be read: holds floats from 0 to 255" in refused(RAMP.astype(np.float32))
    assert "holds floats from -1 to 1" in refused(light * 2 - 1)
    assert "holds 32-bit integers from 0 to 255" in refused(RAMP.astype(np.int32))
    wide = RAMP.astype(np.int32)
    wide[-1, -1] = 2**31 - 1
    assert "holds 32-bit integers from 0 to 2147483647" in refused(wide)


def test_transparency_is_composed_on_white_in_every_form(tmp_path: Path) -> None:
    alpha = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)
    share = alpha[..., None] / 255
    seen = read(Image.fromarray(np.dstack([COLOUR, alpha])), tmp_path / "rgba.png")
    assert np.abs(seen - (COLOUR * share + 255 * (1 - share))).max() <= 1
    grey = read(Image.fromarray(np.dstack([RAMP, alpha])), tmp_path / "la.png", 1)
    assert np.abs(grey[..., 0] - (RAMP * share[..., 0] + 255 * (1 - share[..., 0]))).max() <= 1
    palette = Image.fromarray(COLOUR).quantize(16)
    plain = np.array(palette.convert("RGB"))
    for suffix in (".png", ".gif"):
        clear = read(palette, tmp_path / f"p{suffix}", transparency=3)
        gone = np.array(palette) == 3
        assert (clear[gone] == 255).all() and (clear[~gone] == plain[~gone]).all()
    key = read(Image.fromarray(COLOUR), tmp_path / "key.png", transparency=tuple(map(int, COLOUR[2, 3])))
    assert (key[2, 3] == 255).all() and (key[5, 6] == COLOUR[5, 6]).all()
    deep = read(Image.fromarray(RAMP.astype(np.uint16) * 257), tmp_path / "deep.png", 1, transparency=257 * 9)
    assert deep[0, 9, 0] == 255 and deep[0, 10, 0] == 10


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_ordinary_modes_are_read_as_pillow_converts_them(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(COLOUR).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    with Image.open(path) as again:
        assert (stored(path) == np.array(again.convert("RGB"))).all()
        assert (stored(path, 1)[..., 0] == np.array(again.convert("RGB").convert("L"))).all()


def test_pictures_are_turned_upright_and_of_an_animation_the_first_is_used_and_said(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        image = Image.fromarray(RAMP.astype(np.uint16) * 257)
        exif = image.getexif()
        exif[0x0112] = orientation
        turned = read(image, tmp_path / f"{orientation}.png", 1, exif=exif)[..., 0]
        expected = RAMP if orientation in (1, 2, 3, 4) else RAMP.T
        flips = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}[
            orientation
        ]
        assert (turned == expected[:: flips[0], :: flips[1]]).all(), orientation
    root = tmp_path / "images"
    for name in "ab":
        (root / name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(COLOUR).save(root / name / f"{i}.png")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
    for name in ("a.gif", "b.webp", "c.png", "d.tif"):
        frames[0].save(root / "a" / name, save_all=True, append_images=frames[1:], lossless=True)
        assert (stored(root / "a" / name)[0, 0] == (255, 0, 0)).all(), name
    frames[0].save(root / "b" / "still.gif")
    data = ImageFolder(root=str(root))
    data.setup()
    assert "4 files of several images: the first of each is used" in data.describe()


def test_tables_read_pixels_by_the_same_rules(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    stream = io.BytesIO()
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(stream, "PNG")
    rows = {"image": [{"bytes": stream.getvalue(), "path": None}] * 6, "label": [0, 1] * 3}
    kinds = Features({"image": ImageFeature(), "label": Value("int64")})
    Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "train.parquet")
    data = HubImages(path=str(tmp_path), val_fraction=0.4)
    data.setup()
    samples: Any = data.splits["train"].samples
    assert torch.equal(samples.read(0)[0], torch.from_numpy(RAMP))
