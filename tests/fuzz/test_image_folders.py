"""Made-up image folders of many kinds, read by us and by torchvision with Pillow: equal, or refused in one line."""

import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.datasets import ImageFolder as Theirs

from sft_lightning.data import ImageFolder
from tests.refused import refused

KINDS = ("L", "RGB", "RGBA", "LA", "P", "P-clear", "1", "CMYK", "I;16", "F", "I", "F-wide", "turned")
SPLITS = (
    *(None, None, ("train", "val", "test"), ("Train", "Test"), ("training", "testing"), ("train", "Val", "testing")),
    *(
        ("train_images", "test_images"),
        ("TRAIN", "dev", "TEST"),
        ("train", "eval"),
        ("Training", "training"),
        ("test", "val"),
    ),
)


def picture(kind: str, rng: random.Random) -> tuple[Image.Image, np.ndarray | None]:
    """An image of a kind, and the RGB values that are right to read; None where it must be refused."""
    numbers = np.random.default_rng(rng.randrange(1 << 30))
    colour = numbers.integers(0, 256, (rng.randint(9, 20), rng.randint(9, 20), 3)).astype(np.uint8)
    grey = colour[..., 0]
    wide = np.repeat(grey[..., None], 3, -1)
    if kind in ("RGBA", "LA"):
        alpha = colour[..., 2:] / 255
        base = colour if kind == "RGBA" else wide
        stored = np.dstack([base if kind == "RGBA" else grey, colour[..., 2]])
        return Image.fromarray(stored), base * alpha + 255 * (1 - alpha)
    if kind == "I;16":
        deep = numbers.integers(0, 65536, grey.shape).astype(np.uint16)
        return Image.fromarray(deep), np.repeat((deep / 257)[..., None], 3, -1)
    if kind in ("F", "F-wide"):
        return Image.fromarray(grey.astype(np.float32) / (255 if kind == "F" else 1)), wide if kind == "F" else None
    if kind == "I":
        return Image.fromarray(grey.astype(np.int32)), None
    made = Image.fromarray(colour) if kind == "turned" else Image.fromarray(colour).convert(kind.partition("-")[0])
    if kind == "P-clear":
        clear = np.array(made) == np.array(made)[0, 0]
        return made, np.where(clear[..., None], 255, np.array(made.convert("RGB")))
    return made, np.array(made.convert("RGB"))


def save(folder: Path, number: int, kind: str, rng: random.Random) -> np.ndarray | None:
    image, right = picture(kind, rng)
    options = {"transparency": int(np.array(image)[0, 0])} if kind == "P-clear" else {}
    suffix = (
        ".tif"
        if kind in ("F", "F-wide", "I", "CMYK")
        else rng.choice((".png", ".PNG", ".tif") if not options else (".png",))
    )
    path = folder / f"{number}{suffix}"
    if kind == "turned":
        exif = image.getexif()
        exif[0x0112] = rng.randint(1, 8)
        image.save(folder / f"{number}.png", exif=exif)
        with Image.open(folder / f"{number}.png") as again:
            return np.array(ImageOps.exif_transpose(again))
    image.save(path, **options)
    return right


def make(root: Path, rng: random.Random) -> tuple[bool, dict[str, np.ndarray | None]]:
    """Writes a folder; (whether its layout must be refused, the pixels that are right by file)."""
    splits, right = rng.choice(SPLITS), {}
    refuse = splits is not None and (splits[0] == "test" or len({s.lower() for s in splits}) < len(splits))
    classes = rng.sample(["ant", "bee", os.fsdecode(b"caf\xe9"), "Dog", "élan"], rng.randint(2, 3))
    odd = rng.random() < 0.2
    for split in splits or ("",):
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(rng.randint(5, 8)):
                kind = rng.choice(KINDS if odd else KINDS[:10] + KINDS[12:])
                before = set(folder.iterdir())
                pixels = save(folder, number, kind, rng)
                right[str((set(folder.iterdir()) - before).pop())] = pixels
            if rng.random() < 0.4:
                hidden = folder / rng.choice((".ipynb_checkpoints", "._AppleDouble", "__MACOSX", "@eaDir"))
                hidden.mkdir()
                save(hidden, 0, "RGB", rng)
                (folder / "._0.png").write_bytes(b"no image")
                (folder / "Thumbs.db").write_bytes(b"no image")
            if rng.random() < 0.3:
                store = root.parent / f"store-{root.name}-{split}-{len(right)}"
                store.mkdir()
                pixels = save(store, 0, "RGB", rng)
                (folder / "linked").symlink_to(store)
                right[str(folder / "linked" / next(store.iterdir()).name)] = pixels
            if rng.random() < 0.2:
                (folder / "round").symlink_to(folder)
    if splits is None and rng.random() < 0.15:
        (root / rng.choice(("Test", "valid", "train"))).mkdir()
        save(next(p for p in root.iterdir() if p.name in ("Test", "valid", "train")), 0, "RGB", rng)
        refuse = True
    return refuse, right


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(80))
def test_a_folder_is_read_as_torchvision_and_pillow_read_it_or_refused_in_one_line(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    refuse, right = make(tmp_path / "root", rng)
    data = ImageFolder(root=str(tmp_path / "root"), val_fraction=0.2)
    if refuse:
        with refused("data", tmp_path / "root"):
            data.setup()
        return
    data.setup()
    counts: Counter[str] = Counter()
    for split in data.splits.values():
        samples = split.samples
        for row in split.rows.tolist():
            path = samples.paths[row]  # type: ignore[attr-defined]
            counts[path.parent.name if path.parent.name != "linked" else path.parent.parent.name] += 1
            expected = right.pop(str(path))
            if expected is None:
                with refused("data", "data.on_bad_sample skip") as error:
                    samples.read(row)  # type: ignore[attr-defined]
                assert "floats" in str(error.value) or "32-bit integers" in str(error.value), error.value
                continue
            seen = samples.read(row).permute(1, 2, 0).numpy()  # type: ignore[attr-defined]
            assert seen.shape == expected.shape and np.abs(seen - expected).max() <= 1, f"seed {seed}: {path.name}"
    assert not right, f"seed {seed}: images that were not read: {list(right)}"
    assert sum(counts.values()) == sum(theirs(tmp_path / "root"))


def theirs(root: Path) -> list[int]:
    """Images of each folder of class folders, as torchvision counts those that lie in no hidden folder."""
    hidden = (".", "__MACOSX", "@eaDir")
    folders = list(root.iterdir())
    split = any(
        q.is_dir()
        for p in folders
        for q in p.iterdir()
        if not q.name.startswith(hidden) and q.name not in ("linked", "round")
    )
    found = []
    for folder in folders if split else [root]:
        for path, _ in Theirs(str(folder)).samples:
            parts = Path(path).relative_to(root).parts
            if not any(p.startswith(hidden) for p in parts) and "round" not in parts:
                found.append(1)
    return found
