"""A user's own texts: how they are split and read, and where in them predictions say that entities are."""

import json
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.data import CoNLL, TaggedTable
from sft_lightning.data.text.split_words import split_words
from sft_lightning.data.text.tagged_rows import TaggedRows
from sft_lightning.tasks.schemes import entities
from tests.data.test_conll import write
from tests.data.test_tagged import info_of, ready
from tests.data.text_files import write_jsonl
from tests.refused import refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "Ann (Lee) doesn't live in St. Paul's, U.S.",
            ["Ann", "(", "Lee", ")", "doesn't", "live", "in", "St", ".", "Paul's", ",", "U.S", "."],
        ),
        ("@ann #tag 3,000.5 at 10:30 a,b", ["@ann", "#tag", "3,000.5", "at", "10:30", "a", ",", "b"]),
        ("see https://x.org/a?b=c. cafe\u0301!", ["see", "https://x.org/a?b=c", ".", "cafe\u0301", "!"]),
        ("我爱北京 AT&T नमस्ते", ["我", "爱", "北", "京", "AT&T", "नमस्ते"]),
        ("\u200b\t \u00a0 ❤\ufe0f...", ["\u200b", "❤\ufe0f", ".", ".", "."]),
        ("  ", []),
    ],
)
def test_texts_are_split_at_punctuation_and_places_lead_back_to_the_text(text: str, words: list[str]) -> None:
    spans = split_words(text)
    assert [text[a:b] for a, b in spans] == words
    assert "".join(text[a:b] for a, b in spans) == "".join(text.split()), "a character is lost, or comes twice"
    assert [text[a:b] for a, b in split_words(text, "whitespace")] == text.split()


TEXTS = ["Ann Lee lives in cafe\u0301 ﬁne Oslo.", "No one here", "Bo"]


def completed(data: Any, *args: Any) -> dict[str, Any]:
    """What the data add to a prediction: row, prediction, task."""
    found: dict[str, Any] = data.splits["predict"].samples.completed(*args)
    return found


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_predictions_on_texts_have_words_and_entities_by_character(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"new.{suffix}"
    lines = {"txt": TEXTS, "csv": ["id,text", *(f"{i},{t}" for i, t in enumerate(TEXTS))]}
    lines["jsonl"] = [json.dumps({"text": t}) for t in TEXTS]
    file.write_text("\n".join(lines[suffix]) + "\n", encoding="utf-8")
    data = ready(CoNLL(predict=str(file)), "predict")
    assert any("white space and punctuation" in note for note in data.remarks())
    tags = ["B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC", "I-LOC", "O"]
    prediction = {"tags": tags, "probabilities": [0.5] * 8}
    shown = completed(data, 0, prediction, info_of(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]))
    assert shown["line"] == {"txt": 1, "csv": 2, "jsonl": 1}[suffix]
    assert shown["words"] == ["Ann", "Lee", "lives", "in", "cafe\u0301", "ﬁne", "Oslo", "."]
    person, place = shown["entities"]
    assert person == {"type": "PER", "start": 0, "end": 7, "text": "Ann Lee", "probability": 0.25}
    assert place["text"] == TEXTS[0][place["start"] : place["end"]] == "cafe\u0301 ﬁne Oslo"
    assert "untagged" not in shown
    cut = completed(data, 0, {"tags": tags[:5], "probabilities": [0.5] * 5}, info_of(["NOUN"]))
    assert [TEXTS[0][a:b] for a, b in cut["untagged"]] == ["ﬁne", "Oslo", "."] and "entities" not in cut


def test_columns_in_a_txt_file_are_no_texts(tmp_path: Path) -> None:
    for text in ("Ann\nLee\n\nruns\n", "Ann O\nLee O\n\nruns O\n", "Ann\tO\nLee\tO\n"):
        data = ready(CoNLL(predict=write(tmp_path, text, "new.txt")), "predict")
        split = data.splits["predict"]
        assert isinstance(split.samples, TaggedRows) and split.samples.sentences.words[0] == ["Ann", "Lee"]
        assert completed(data, 0, {"tags": ["O"]}, None) == {"tags": ["O"]}
        assert any("one word a line" in note for note in data.notes)
    same_length = ready(CoNLL(predict=write(tmp_path, "Ann is here\nBo is there\n", "two.txt")), "predict")
    assert completed(same_length, 1, {"tags": ["X"], "probabilities": [1.0]}, None)["text"] == "Bo is there"
    with refused("data.split_words", "new.txt"):
        ready(CoNLL(predict=str(tmp_path / "new.txt"), split_words="whitespace"), "predict")


def test_a_text_that_cannot_be_read_is_refused_with_its_line_or_left_out_and_counted(tmp_path: Path) -> None:
    file = write_jsonl(
        tmp_path / "new.jsonl", [{"text": "Ann"}, {"text": " "}, {"text": None}, {"text": 3}, {"text": "Bo"}]
    )
    with refused("data", "line 2"):
        ready(CoNLL(predict=file), "predict")
    data = ready(CoNLL(predict=file, on_bad_sample="skip"), "predict")
    assert data.splits["predict"].rows.tolist() == [0, 4] and data.skipped_report(gather=False)["predict"]["count"] == 3
    shown = completed(data, 4, {"tags": ["O"], "probabilities": [1.0]}, None)
    assert (shown["text"], shown["line"]) == ("Bo", 5)
    with refused("data", "'words'", "text", "data.text_column"):
        ready(CoNLL(predict=file, text_column="words"), "predict")


def test_lists_of_words_are_predicted_on_as_they_are(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "new.jsonl", [{"tokens": ["don't", "St."]}, {"tokens": ["x"]}])
    for data in (CoNLL(predict=file), TaggedTable(predict=file)):
        split = ready(data, "predict").splits["predict"]
        assert isinstance(split.samples, TaggedRows) and split.samples.sentences.words == [["don't", "St."], ["x"]]


def test_entities_of_a_text_read_as_the_metric_does() -> None:
    assert entities(["I-a", "O", "S-b"]) == [(0, 1, "a"), (2, 3, "b")]
