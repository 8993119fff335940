"""Samples that are easily answered wrong: for each kind of input, with some that cannot be read."""

import io
from typing import Any

import numpy as np
from PIL import Image

from sft_lightning.serve.items import Item
from tests.serve.conftest import TEXTS


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


def images(size: tuple[int, int] | None = None) -> list[Item]:
    """Of several sizes, modes and depths, one turned by EXIF, one damaged; with `size` all of that height and width."""
    random, found = np.random.default_rng(0), []
    for width, height in ((90, 40), (40, 90), (200, 10), (8, 8), (1, 300), (70, 70)) if size is None else ():
        found.append(encoded(Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))))
    height, width = size or (50, 80)
    one = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
    seen = one.convert("RGBA")
    seen.putalpha(Image.fromarray(random.integers(0, 256, (height, width), dtype=np.uint8)))
    turned = Image.Exif()
    turned[0x0112] = 6
    found += [encoded(one, "JPEG", exif=turned), encoded(one.convert("CMYK"), "JPEG")]
    found += [encoded(one.convert(mode)) for mode in ("P", "L", "1")] + [encoded(seen), encoded(seen.convert("LA"))]
    found.append(encoded(Image.fromarray(random.integers(0, 1 << 16, (height, width), dtype=np.uint16))))
    return [Item(f"image {n}", image=data) for n, data in enumerate([*found, *([b"no image"] if size is None else [])])]


def sounds() -> list[Item]:
    """Of several rates and lengths, mono and stereo, one damaged."""
    import soundfile  # type: ignore[import-untyped]

    random, found = np.random.default_rng(0), []
    for rate, seconds, channels in ((8000, 0.5, 1), (16000, 0.7, 2), (44100, 0.3, 1), (8000, 1.3, 2), (8000, 0.5, 1)):
        held = io.BytesIO()
        soundfile.write(held, random.normal(0, 0.1, (int(rate * seconds), channels)), rate, format="WAV")
        found.append(held.getvalue())
    return [Item(f"sound {n}", sound=data) for n, data in enumerate([*found, b"no sound"])]


def items(kind: str) -> list[Item]:
    """Samples of a kind of network input, some of them twice."""
    if kind in ("image", "masks", "boxes"):
        return images()
    if kind in ("audio", "speech"):
        return sounds()
    texts = [Item(f"text {n}", text) for n, text in enumerate([*TEXTS, TEXTS[0]])]
    if kind == "words":
        return [*texts, Item("words", words=("New", "York", "東京"))]
    if kind == "questions":
        asked = [("Who?", TEXTS[0]), ("What is it? " * 3, TEXTS[2]), ("Who is? " * 50, TEXTS[6]), ("x", TEXTS[5])]
        return [Item(f"question {n}", row={"question": q, "context": c}) for n, (q, c) in enumerate(asked)]
    if kind == "choices":
        of = [("Who?", ["a", "b"]), ("What? " * 40, ["aa", TEXTS[2], "c", "d"]), (TEXTS[3], [TEXTS[4], TEXTS[1], "z"])]
        return [Item(f"choice {n}", row={"question": q, "choices": c}) for n, (q, c) in enumerate(of)]
    return texts
