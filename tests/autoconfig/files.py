"""Data on disk that the front door's tests infer from: tables of texts, lists and folders of images."""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.data.text_files import texts, write_jsonl, write_text
from tests.data.vision_files import pixels, write_folder

ANIMALS = ("ant", "bee", "cat")


def csv_rows(
    path: Path, rows: int = 60, header: str = "review,sentiment", kinds: tuple[str, ...] = ("sad", "glad")
) -> str:
    lines = [f'"{t}",{kinds[i % len(kinds)]}' for i, t in enumerate(texts(rows))]
    return write_text(path, "\n".join([header, *lines]))


def image_list(root: Path, rows: int = 24) -> str:
    """A CSV that names images beside it."""
    images, targets = pixels(rows, 12, 3, 3, 0)
    (root / "pictures").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / "pictures" / f"{i}.png")
    lines = [f"pictures/{i}.png,{ANIMALS[t]},photo number {i} of mine" for i, t in enumerate(targets)]
    return write_text(root / "list.csv", "\n".join(["file_name,species,caption", *lines]))


def instructions(path: Path, rows: int = 30) -> str:
    return write_jsonl(
        path, [{"instruction": t, "input": "", "output": f"{i} words"} for i, t in enumerate(texts(rows))]
    )


def pairs(path: Path, rows: int = 60) -> str:
    a = texts(rows)
    rows_ = [{"idx": i, "premise": t, "hypothesis": a[-i], "gold_label": i % 3} for i, t in enumerate(a)]
    return write_jsonl(path, rows_)


def questions(path: Path, rows: int = 40) -> str:
    """SQuAD's JSON, one question about each text."""
    qas = [
        {"id": str(i), "question": "What is it?", "answers": [{"text": t[:3], "answer_start": 0}]}
        for i, t in enumerate(texts(rows))
    ]
    paragraphs = [{"context": t, "qas": [qa]} for t, qa in zip(texts(rows), qas, strict=True)]
    return write_text(path, json.dumps({"data": [{"title": "all", "paragraphs": paragraphs}]}))


def scores(path: Path, rows: int = 60) -> str:
    return write_jsonl(path, [{"text": t, "score": i * 0.37 % 5} for i, t in enumerate(texts(rows))])


def folder(root: Path, split: bool = False) -> str:
    for name, count in {"train": 12, "val": 4, "test": 4}.items() if split else (("", 14),):
        write_folder(root / name, dict.fromkeys(("dog", "elk", "fox"), count), side=20)
    return str(root)


IMAGES: dict[str, Callable[[Path], str]] = {
    "vit": lambda tmp: folder(tmp / "new"),
    "resnet": lambda tmp: folder(tmp / "split", split=True),
    "mobile": lambda tmp: folder(tmp / "new"),
    "lenet": lambda tmp: folder(tmp / "new"),
}
