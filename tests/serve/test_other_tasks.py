"""Questions, choices, generated texts, masks and sounds: served answers are those of `predict`."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]
from PIL import Image

from tests.serve.conftest import Served, encoded
from tests.serve.test_answers import same

Serve = Callable[[str], Served]
LONG = "Peter7 lives in town 7. " * 40
ROWS: dict[str, list[dict[str, Any]]] = {
    "questions-bert": [
        {"question": "Where does he live?", "context": "Peter7 lives in town 7."},
        {"question": "Who?", "context": LONG},
        {"question": "Ünï 🦊? " * 30, "context": "東京 is not far."},
    ],
    "choices-bert": [
        {"question": "What is it?", "choices": ["a fox", "the lazy dog " * 30]},
        {"question": "And now?", "choices": ["one", "two", "three", "four"]},
    ],
    "seq2seq-t5": [{"source": "ein Hund"}, {"source": "Guten Tag. " * 40}],
    "lm-llama": [
        {"messages": [{"role": "user", "content": "3 and?"}]},
        {"messages": [{"role": "user", "content": "and"}]},
    ],
}
slow = pytest.mark.slow


@pytest.mark.parametrize("name", ["questions-bert", *(pytest.param(n, marks=slow) for n in ROWS if n[0] != "q")])
def test_rows_of_text_get_the_answers_of_predict_alone_and_together(name: str, served: Serve, tmp_path: Path) -> None:
    one, rows = served(name), ROWS[name]
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = one.predicted("predict", file)
    asked: list[Any] = [row.get("source", row) for row in rows]
    alone = [one.answers(texts=[sample])[0] for sample in asked]
    for row, said, a, b in zip(rows, expected, one.answers(texts=asked), alone, strict=True):
        assert same(a["new"], said) and same(b["new"], said), f"{row!r:.60}: {a} and {b}, but predict says {said}"
    if name == "lm-llama":  # a text is the user's turn
        assert one.answers(texts=["3 and?"])[0]["new"] == alone[0]["new"]


@pytest.mark.parametrize(
    ("name", "sample", "why"),
    [
        ("questions-bert", "a text", "must have question and context"),
        ("questions-bert", {"question": "a"}, "context has no value"),
        ("questions-bert", {"question": "a", "context": "b", "choices": ["a", "b"]}, "has choices"),
        ("questions-bert", {"question": "a", "text": "b"}, "may have one of them"),
        pytest.param("choices-bert", {"question": "a", "choices": ["b"]}, "choice", marks=slow),
        pytest.param("choices-bert", {"question": "a", "choices": ["b", "b"]}, "twice", marks=slow),
        pytest.param("seq2seq-t5", {"question": "a"}, "must be a text", marks=slow),
        pytest.param("lm-llama", {"messages": [{"role": "assistant", "content": "a"}]}, "no question", marks=slow),
    ],
)
def test_a_row_of_the_wrong_form_gets_one_sentence(name: str, sample: Any, why: str, served: Serve) -> None:
    response = served(name).post(texts=[sample])
    assert response.status_code == 422 and why in response.json()["error"], response.text


@pytest.mark.parametrize(
    "name", ["audio-mel", *(pytest.param(n, marks=slow) for n in ("speech-ctc", "speech-whisper"))]
)
def test_sounds_of_any_rate_get_the_answers_of_predict(name: str, served: Serve, tmp_path: Path) -> None:
    one, root = served(name), tmp_path / "sounds"
    root.mkdir()
    draw = np.random.default_rng(0)
    for number, (rate, seconds, channels) in enumerate(((8000, 0.4, 1), (16000, 1.3, 1), (11025, 0.7, 2))):
        values = draw.standard_normal((int(rate * seconds), channels)) / 4
        soundfile.write(root / f"{number}.{('wav', 'flac', 'ogg')[number]}", values, rate)
    files = sorted(root.iterdir())
    expected = [{n: v for n, v in row.items() if n != "file"} for row in one.predicted("predict", root)]
    as_json = one.answers(sounds=[encoded(file) for file in files])
    form = one.client.post("/predict", files=[("file", file.read_bytes()) for file in files]).json()["answers"]
    for file, said, a, b in zip(files, expected, as_json, form, strict=True):
        assert same(a["new"], said) and same(b, a), f"{file.name}: {a} and {b}, but predict says {said}"
    bad = one.client.post("/predict", files=[("file", files[0].read_bytes()), ("file", b"no sound")])
    assert bad.status_code == 422 and "file[1] cannot be read" in bad.json()["error"]
    assert "takes sounds, not texts" in one.post(texts=["a"]).json()["error"]


@slow
def test_masks_are_those_that_predict_writes(served: Serve, tmp_path: Path) -> None:
    one, root = served("masks-segformer"), tmp_path / "images"
    root.mkdir()
    for number, size in enumerate(((90, 40), (33, 33))):
        Image.effect_noise(size, 90).convert("RGB").save(root / f"{number}.png")
    expected = one.predicted("predict_root", root)
    answers = one.answers(images=[encoded(file) for file in sorted(root.iterdir())])
    for said, answer in zip(expected, answers, strict=True):
        mask = Image.open(BytesIO(base64.b64decode(answer["new"]["mask"])))
        written = Image.open(one.run / said["mask"])
        assert np.array_equal(np.array(mask), np.array(written)) and answer["new"]["pixels"] == said["pixels"]


@pytest.mark.parametrize(
    "name", ["boxes-timm", *(pytest.param(f"boxes-{n}", marks=slow) for n in ("detr", "faster-rcnn"))]
)
def test_boxes_are_those_that_predict_finds(name: str, served: Serve, tmp_path: Path) -> None:
    one, root = served(name), tmp_path / "images"
    root.mkdir()
    for number, size in enumerate(((90, 40), (33, 33), (20, 200))):
        Image.effect_noise(size, 90).convert("RGB").save(root / f"{number}.png")
    expected = [{n: v for n, v in row.items() if n != "file"} for row in one.predicted("predict_root", root)]
    files = sorted(root.iterdir())
    for file, said, together in zip(files, expected, one.answers(images=[encoded(f) for f in files]), strict=True):
        alone = one.answers(images=[encoded(file)])[0]["new"]
        for answer in (alone, together["new"]):
            assert [answer[n] for n in ("height", "width", "labels")] == [
                said[n] for n in ("height", "width", "labels")
            ]
            assert np.allclose(answer["boxes"], said["boxes"], atol=0.02)
            assert len(said["boxes"]) or name == "boxes-faster-rcnn"
            assert np.allclose(answer["scores"], said["scores"], atol=1e-4)
