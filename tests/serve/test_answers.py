"""Served answers are those of `predict`, whatever else is in the batch."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml
from PIL import Image

from sft_lightning.serve.answering import Model
from sft_lightning.serve.items import Item
from tests.serve.conftest import TEXTS, Served, encoded

Serve = Callable[[str], Served]


def same(one: Any, other: Any) -> bool:
    """Equal but for the rounding of floats."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, abs=3e-6, rel=1e-5)
    return bool(one == other)


TEXT_CASES = [
    "classification-bert",
    "tokens-bert",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "classification-gpt2",
            "classification-lora",
            "classification-pooled",
            "classification-lstm",
            "regression-roberta",
            "multi-label-distilbert",
        )
    ),
]


@pytest.mark.parametrize("name", TEXT_CASES)
def test_texts_get_the_answers_of_predict_alone_and_together(name: str, served: Serve, tmp_path: Path) -> None:
    one = served(name)
    expected = one.predicted("predict", lines_of(tmp_path / "new.jsonl"))
    together = one.answers(texts=TEXTS)
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda text: one.answers(texts=[text])[0], TEXTS))
    for text, said, a, b in zip(TEXTS, expected, together, alone, strict=True):
        assert same(a["new"], said), f"{text!r:.40} is answered {a['new']} in a batch, and predict says {said}"
        assert same(b["new"], said), f"{text!r:.40} is answered {b['new']} alone, and predict says {said}"
    assert [a.get("truncated", False) for a in together][:3] == [False, False, True]


IMAGE_CASES = ["classification-vit-photos", pytest.param("classification-timm-photos", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", IMAGE_CASES)
def test_images_of_any_size_and_mode_get_the_answers_of_predict(name: str, served: Serve, tmp_path: Path) -> None:
    one, root = served(name), tmp_path / "images"
    root.mkdir()
    for number, (mode, size) in enumerate((("RGB", (90, 40)), ("L", (40, 90)), ("RGBA", (33, 33)), ("P", (200, 10)))):
        Image.effect_noise(size, 90).convert("RGB").convert(mode).save(root / f"{number}.png")
    for suffix in ("jpg", "webp", "gif", "tiff", "bmp", "ppm"):
        Image.effect_noise((60, 45), 90).convert("RGB").save(root / f"5.{suffix}")
    files = sorted(root.iterdir())
    expected = one.predicted("predict_root", root)
    as_json = one.answers(images=[encoded(file) for file in files], head="both")
    form = one.client.post("/predict", files=[("file", file.read_bytes()) for file in files], data={"head": "both"})
    for file, said, a, b in zip(files, expected, as_json, form.json()["answers"], strict=True):
        assert same(a["new"], said) and same(b, a), f"{file.name}: {a} and {b}, but predict says {said}"
        assert a["source"]["label"] in ("a", "b", "c")


def test_heads_are_answered_as_asked_and_with_their_own_labels(served: Serve) -> None:
    one = served("classification-bert")
    about = one.client.get("/model").json()
    assert set(about["heads"]) == {"new", "source"} and about["takes"] == "texts"
    for head, found in (("new", {"new"}), ("source", {"source"}), ("both", {"new", "source"})):
        answer = one.answers(texts=["a text"], head=head)[0]
        assert set(answer) == found
        for name in found:
            assert (
                len(answer[name]["probabilities"]) == about["heads"][name]["labels"].__len__()
                or not about["heads"][name]["labels"]
            )
    assert set(one.answers(texts=["a text"])[0]) == {"new"}


def test_places_of_entities_are_places_in_the_text_and_lists_of_words_are_tagged_too(served: Serve) -> None:
    one = served("tokens-bert")
    text = "Ünï 🦊 lives in New York, not in 東京."
    said = one.answers(texts=[text, {"words": ["New", "York"]}, text])
    assert same(said[0], said[2])
    new = said[0]["new"]
    assert [text[a:b] for a, b in new["spans"]] == new["words"] and len(new["tags"]) == len(new["words"])
    assert all(text[e["start"] : e["end"]] == e["text"] for e in new["entities"])
    assert len(said[1]["new"]["tags"]) == 2 and "spans" not in said[1]["new"]


def test_texts_are_cut_where_the_run_cut_them(served: Serve, tmp_path: Path) -> None:
    one = served("classification-bert")
    run = tmp_path / "run"
    copytree(one.run, run)
    about = run / "model/tokenizer_config.json"
    about.write_text(
        json.dumps({**json.loads(about.read_text()), "model_max_length": 9})
    )  # less than the network takes
    items = [Item("one", text) for text in TEXTS]
    assert Model.load(run).answer(items) == one.model.answer(items)
    config = run / "config.yaml"
    held = yaml.safe_load(config.read_text())
    held["data"]["init_args"]["max_length"] = (
        11  # the first text has 10 words, of a token or more, and two special tokens
    )
    config.write_text(yaml.safe_dump(held))
    expected = Served(run, one.client, one.service).predicted("predict", lines_of(tmp_path / "new.jsonl"))
    short = Model.load(run).answer(items)
    assert all(same(a["new"], said) for a, said in zip(short, expected, strict=True))  # type: ignore[index]
    assert short[0]["truncated"]  # type: ignore[index]


def lines_of(file: Path) -> Path:
    """A file with TEXTS."""
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


@pytest.mark.slow  # export tries the folder in a fresh process
def test_an_export_is_served_as_the_run_is(served: Serve, tmp_path: Path) -> None:
    from sft_lightning.export import export_run

    one = served("classification-bert")
    made = export_run(one.run, tmp_path / "out", "safetensors", "new")
    texts = TEXTS[:3]
    said = Model.load(made.folder).answer([Item("one", text) for text in texts])
    assert said == one.answers(texts=texts)
