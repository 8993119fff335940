"""What `predict MODEL` reads: nothing is guessed without being said, and one bad sample costs its own answer alone."""

import io
import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sft_lightning.cli.main import main
from sft_lightning.core.errors import UserError
from sft_lightning.serve import predicting
from sft_lightning.serve.answering import Model
from sft_lightning.serve.files import read_inputs
from sft_lightning.serve.items import Item
from sft_lightning.serve.row_items import PairReader
from sft_lightning.serve.text_items import WordReader
from tests.refused import refused
from tests.serve.conftest import Served
from tests.serve.test_answers import same
from tests.serve.test_predict import said

Serve = Callable[[str], Served]
Ask = Callable[..., tuple[int, list[dict[str, Any]], str]]
BERT = "classification-bert"


@pytest.fixture
def ask(served: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ask:
    """`ask(case, bytes, file or None for standard input, options)`: exit code, rows, and standard error."""

    def asked(name: str, given: bytes, file: str | None = None, *options: str) -> tuple[int, list[dict[str, Any]], str]:
        run, place = served(name).run, "-"
        capsys.readouterr()
        if file is None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        else:
            (tmp_path / file).write_bytes(given)
            place = str(tmp_path / file)
        code = main(["predict", str(run), "--input", place, *options])
        printed = capsys.readouterr()
        return code, [json.loads(line) for line in printed.out.splitlines()], printed.err

    return asked


def test_a_broken_line_among_json_objects_is_not_answered_as_a_text(ask: Ask, served: Serve) -> None:
    code, rows, error = ask(
        BERT, b'{"text": "one"}\n{"text": "tw\n\n{"text": "three"}\n{"text": "a", "text": "b"}\n{"text": "caf\xe9"}\n'
    )
    assert code == 0 and "JSON objects in 2 of 5 full lines, and is read as JSON objects" in error
    assert ["error" in row for row in rows] == [False, True, True, False, True, True]
    assert "is blank" in rows[2]["error"] and "not a JSON object" in rows[1]["error"]
    for row, answer in zip([rows[0], rows[3]], served(BERT).answers(texts=["one", "three"]), strict=True):
        assert same(said(row), answer["new"])


def test_a_line_that_is_not_utf8_costs_its_own_answer_alone(ask: Ask, served: Serve) -> None:
    code, rows, error = ask(BERT, b"one\ncaf\xe9\nthree", "new.txt")
    assert code == 0 and "line 2 is not UTF-8" in rows[1]["error"] and "1 unreadable" in error
    answers = served(BERT).answers(texts=["one", "three"])
    assert same(said(rows[0]), answers[0]["new"]) and same(said(rows[2]), answers[1]["new"])
    code, _, error = ask(BERT, "one\ntwo\n".encode("utf-16"))
    assert code == 2 and "standard input is UTF-16" in error


def test_a_column_that_is_guessed_is_said(ask: Ask) -> None:
    code, rows, error = ask(BERT, b"a good film\na bad one\n", "new.csv")
    assert (code, len(rows)) == (0, 1)
    assert "has no column 'text': texts are read from 'a good film'" in error


@pytest.mark.parametrize(
    ("name", "given", "file", "options", "why"),
    [
        (BERT, b"id\n5\n6\n", "new.csv", (), "column 'id' holds numbers"),
        (BERT, b"review,id\na,5\n", "new.csv", (), "has no column 'text', only review, id; name it by --text_column"),
        (BERT, b"a text\n", None, ("--text_column", "a"), "--text_column: has no effect on standard input"),
        (BERT, b"text,b\na,b\n", "new.csv", ("--pair_column", "b"), "--pair_column: the model was tuned on single"),
        ("tokens-bert", b"text,b\na,b\n", "new.csv", ("--pair_column", "b"), "--pair_column: has no effect"),
    ],
)
def test_a_wrong_column_or_an_option_without_effect_is_one_line(
    name: str, given: bytes, file: str | None, options: tuple[str, ...], why: str, ask: Ask
) -> None:
    code, rows, error = ask(name, given, file, *options)
    assert code == 2 and not rows and why in error and error.count("\n") == 1, error


def test_names_that_no_file_can_have_are_unreadable_one_by_one(ask: Ask, tmp_path: Path) -> None:
    Image.effect_noise((40, 40), 90).convert("RGB").save(tmp_path / "a.png")
    given = f"{tmp_path}/a.png\nnul\0.png\n~nobody/a.png\n\ncaf".encode() + b"\xe9.png\n"
    code, rows, _ = ask("classification-vit-photos", given)
    assert code == 0 and ["error" in row for row in rows] == [False, True, True, True, True]
    table = b'{"file": "a.png"}\n{"file": "\\ud83d.png"}\n{"file": 5}\n{"file": ""}\nbroken\n'
    code, rows, _ = ask("classification-vit-photos", table, "files.jsonl")
    assert code == 0 and "error" not in rows[0]
    for row, why in zip(rows[1:], ("half a character", "a number", "empty", "malformed"), strict=True):
        assert why in row["error"]


def test_another_column_has_other_samples(served: Serve, tmp_path: Path) -> None:
    file, reader = tmp_path / "new.csv", served(BERT).model.reader
    file.write_text("a,b\none,two\n")
    found = [
        read_inputs(str(file), reader, {"text_column": name, "given": ["text_column"]}).digest for name in ("a", "b")
    ]
    assert found[0] != found[1]


def test_a_sample_on_which_the_network_fails_costs_its_own_answer_alone(
    ask: Ask, served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, answer = served(BERT).answers(texts=["one", "three"]), Model.answer

    def failing(self: Model, items: Any, source: bool = True) -> Any:
        if any(item.text == "two" for item in items):
            raise ValueError("a layer refuses it")
        return answer(self, items, source)

    monkeypatch.setattr(Model, "answer", failing)
    code, rows, _ = ask(BERT, b"one\ntwo\nthree\n")
    assert code == 0 and rows[1]["error"] == "line 2 cannot be answered: ValueError: a layer refuses it"
    assert same(said(rows[0]), expected[0]["new"]) and same(said(rows[2]), expected[1]["new"])


def test_a_context_that_a_service_refuses_for_its_length_is_answered(served: Serve) -> None:
    model = Model.load(served("questions-bert").run)
    item = Item("long", row={"question": "Who?", "context": "Peter7 lives in town 7. " * 40})
    expected = model.answer([item])
    model.reader.most_tokens = 64  # type: ignore[attr-defined]
    assert isinstance(model.answer([item])[0], UserError)
    model.reader.limited = False
    assert same(model.answer([item])[0], expected[0])


def test_a_prompt_that_loses_its_beginning_is_truncated(served: Serve) -> None:
    model = served("lm-llama").model
    most = model.network.longest_prompt
    seen = set()
    for words in range(20, 40):
        item = Item("prompt", " ".join("abcdefghij"[n % 10] for n in range(words)))
        part = next(iter(model.reader.batches([item])))
        assert not isinstance(part, tuple)
        tokens = int(part.batch["prompt"]["attention_mask"].sum())
        assert part.truncated == [tokens > most], f"{tokens} tokens, and {most} have room"
        seen.add(tokens > most)
    assert seen == {True, False}


def test_masks_are_not_written_among_the_images_that_are_read(tmp_path: Path) -> None:
    with refused("--output", "its masks are images too", "name another"):
        predicting.check_apart(tmp_path / "deep/out.jsonl", str(tmp_path), "masks")
    predicting.check_apart(tmp_path / "out.jsonl", str(tmp_path), "image")
    predicting.check_apart(tmp_path / "out.jsonl", str(tmp_path / "images"), "masks")


def test_masks_of_two_outputs_have_two_folders_and_names_that_fit(tmp_path: Path) -> None:
    mask = b64encode(b"a mask").decode()
    for name in ("out.jsonl", "out.csv"):
        row = {"index": 3, "file": f"deep/{'ü' * 120}\n.png", "mask": mask}
        predicting.with_files(row, tmp_path / name)
        assert (tmp_path / row["mask"]).read_bytes() == b"a mask" and f"{name}-masks/" in str(row["mask"])


def test_an_empty_prompt_is_said_to_be_empty(ask: Ask) -> None:
    given = '\ufeffprompt\r\none two\r\n""\r\n👩‍👧 three\r\n'
    code, rows, error = ask("lm-llama", given.encode(), "new.csv")
    assert code == 0 and ["error" in row for row in rows] == [False, True, False] and "1 unreadable" in error
    assert "line 3 has no text" in rows[1]["error"] and [row["line"] for row in rows] == [2, 3, 4]


def test_tables_are_read_as_those_that_the_run_was_tuned_on(tmp_path: Path) -> None:
    """Without a network, which reading does not use: lists in cells, blanks between words, and pairs without a header."""
    words, pairs = WordReader.__new__(WordReader), PairReader.__new__(PairReader)
    lists = tmp_path / "lists.csv"
    lists.write_text("tokens\n\"['Ann', 'is, here']\"\n\"['O\\'Hara']\"\n\"['cut' ...\"\n")
    read = read_inputs(str(lists), words, {})
    assert [read.item(n).words for n in (0, 1)] == [
        ("Ann", "is, here"),
        ("O'Hara",),
    ] and "written as texts" in read.notes[-1]
    with refused("data", "lists.csv line 4", "not a list of words"):
        read.item(2)
    blanks = tmp_path / "blanks.tsv"
    blanks.write_text("tokens\nAnn 's here .\n")
    assert read_inputs(str(blanks), words, {"token_column": "tokens"}).item(0).words == ("Ann", "'s", "here", ".")
    assert read_inputs(str(blanks), words, {}).item(0).text == "Ann 's here .", "another run's column is text"
    hub = tmp_path / "hub.jsonl"
    rows = [{"id": str(i), "translation": {"de": "Bleib.", "en": text}} for i, text in enumerate(("Go on.", "Stay."))]
    hub.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"id": "2"}\n')
    read = read_inputs(str(hub), pairs, {"source_column": "en"})
    assert [read.item(n).text for n in (0, 1)] == ["Go on.", "Stay."], "the run's column is one of the hub's languages"
    with refused("data", "hub.jsonl line 3", "translation"):
        read.item(2)
    bare = tmp_path / "bare.tsv"
    bare.write_text("Go on.\tWeiter.\nStay.\tBleib.\n")
    read = read_inputs(str(bare), pairs, {"header": False})
    assert [read.item(n).text for n in range(len(read))] == ["Go on.", "Stay."] and "line 1" in read.notes[0]
