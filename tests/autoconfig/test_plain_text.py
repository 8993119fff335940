"""Plain text at the front door: recognised in its forms, said, trained and measured, and refused where it cannot be."""

from pathlib import Path
from typing import Any

import pytest

from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.data import PlainText
from tests.autoconfig.files import instructions
from tests.data.text_files import texts, write_jsonl, write_text
from tests.refused import refused


def notes(path: Path, count: int = 40, between: str = "\n\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(path, between.join(texts(count)))


def test_a_text_file_is_plain_text_and_how_it_is_divided_is_said(nets: dict[str, str], tmp_path: Path) -> None:
    study, lines = front_door(nets["llama"], notes(tmp_path / "notes.txt"))
    block = study["base"]["data"]
    assert block["class_path"] == "PlainText" and "documents" not in block["init_args"]
    assert study["base"]["network"]["class_path"] == "TransformersLM"
    assert study["study"].startswith("notes-")
    shown = "\n".join(lines)
    assert all(said in shown for said in ("plain text", "40 documents", "--set data.documents=lines")), shown
    assert "test/bits_per_byte" in study["report"] and study["select"]["target"] == "val/loss"


def test_lines_are_documents_where_blank_lines_separate_too_few(nets: dict[str, str], tmp_path: Path) -> None:
    study, lines = front_door(nets["llama"], notes(tmp_path / "notes.txt", between="\n"))
    assert study["base"]["data"]["init_args"]["documents"] == "lines"
    assert "blank_lines" in "\n".join(lines)
    with refused("--data", "3", "10"):
        front_door(nets["llama"], notes(tmp_path / "few.txt", 3))


def test_a_folder_of_text_files_has_their_splits(nets: dict[str, str], tmp_path: Path) -> None:
    for name, count in (("train", 30), ("valid", 12), ("test", 11), ("README", 1)):
        notes(tmp_path / "notes" / f"{name}.txt", count)
    study, _ = front_door(nets["llama"], str(tmp_path / "notes"))
    init = study["base"]["data"]["init_args"]
    assert init["val"].endswith("valid.txt") and init["test"].endswith("test.txt") and "val_fraction" not in init
    notes(tmp_path / "other" / "a.txt")
    assert front_door(nets["llama"], str(tmp_path / "other"))[0]["base"]["data"]["init_args"]["train"].endswith("a.txt")
    notes(tmp_path / "other" / "b.txt")
    with refused("--data", "a.txt", "b.txt", "train.txt"):
        front_door(nets["llama"], str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("keys", "options", "expected"),
    [
        ({}, {}, "PlainText"),
        ({"url": lambda i: f"https://a.b/{i}"}, {}, "PlainText"),
        ({"label": lambda i: i % 2}, {}, "TextTable"),
        ({"label": lambda i: i % 2}, {"task": "causal_lm"}, "PlainText"),
        ({"source": lambda i: f"part{i % 3}"}, {}, "TextTable"),
        ({"source": lambda i: f"part{i % 3}"}, {"task": "causal_lm", "text_column": "text"}, "PlainText"),
    ],
)
def test_a_table_of_texts_is_plain_text_unless_a_column_could_be_labels(
    nets: dict[str, str], tmp_path: Path, keys: dict[str, Any], options: dict[str, Any], expected: str
) -> None:
    rows = [{"text": t, **{k: f(i) for k, f in keys.items()}} for i, t in enumerate(texts(60))]
    study, lines = front_door(nets["llama"], write_jsonl(tmp_path / "rows.jsonl", rows), **options)
    assert study["base"]["data"]["class_path"] == expected
    assert expected != "PlainText" or "--label_column" in "\n".join(lines)
    assert ("columns not used" in "\n".join(lines)) == (expected == "PlainText" and bool(keys))


def test_what_does_not_fit_plain_text_is_refused(nets: dict[str, str], tmp_path: Path) -> None:
    file = notes(tmp_path / "notes.txt")
    with refused("--data", "notes.txt", "plain text"):
        front_door(nets["bert"], file)
    with refused("--task", "notes.txt", "classification", "causal_lm"):
        front_door(nets["llama"], file, task="classification")
    for flag in ("text_column", "label_column"):
        with refused(f"--{flag}", "notes.txt"):
            front_door(nets["llama"], file, **{flag: "text"})
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 x\n\nb")
    with refused("--data", "latin.txt", "byte 3"):
        front_door(nets["llama"], str(tmp_path / "latin.txt"))


def test_the_inferred_study_trains_on_plain_text(nets: dict[str, str], tmp_path: Path, fit: Any) -> None:
    run = fit(front_door(nets["llama"], notes(tmp_path / "notes.txt"))[0]["base"])
    assert {"val/loss", "val/perplexity", "val/bits_per_byte"} <= set(run.record["metrics"])
    assert PlainText.__name__ in run.record["data"]["description"]


def test_instructions_are_tuned_with_a_general_text_as_retention(
    nets: dict[str, str], tmp_path: Path, fit: Any
) -> None:
    file, general = instructions(tmp_path / "rows.jsonl"), notes(tmp_path / "general.txt")
    study, lines = front_door(nets["llama"], file, general)
    assert study["base"]["retention"]["class_path"] == "PlainText"
    assert study["select"]["kept"] == "retention/loss"
    assert any(line.startswith("retention") and "plain text" in line for line in lines)
    run = fit(study["base"])
    kept = {"retention/loss", "retention/perplexity", "retention/bits_per_byte", "retention/forgetting"}
    assert kept <= set(run.record["metrics"])
    assert run.record["primary"]["source"] == "retention/perplexity"
