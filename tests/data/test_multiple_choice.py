"""Questions with choices: every way to write them gives the same inputs, and what is wrong is named by row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft_lightning.core.structures import InputSpec
from sft_lightning.data import MultipleChoice
from sft_lightning.data.sampler import Key
from tests.data.text_files import write_jsonl, write_text
from tests.networks.tiny import byte_bpe, unigram, wordpiece
from tests.refused import refused

CHOICES = [["a fox", "a dog", "lunch"], ["Paris", "France"], ["one two", "three", "a film"]] * 6
RIGHT = [2, 0, 1] * 6


def rows() -> list[dict[str, Any]]:
    return [
        {"question": f"what is {i}", "choices": c, "label": r}
        for i, (c, r) in enumerate(zip(CHOICES, RIGHT, strict=True))
    ]


def written(root: Path, how: str) -> dict[str, Any]:
    held = rows()
    if how == "columns":
        lines = [f"{r['question']},{','.join([*r['choices'], ''][:3])},{r['label']}" for r in held]
        file = write_text(root / "a.csv", "question,one,two,three,label\n" + "\n".join(lines) + "\n")
        return {"train": file, "choice_columns": ["one", "two", "three"]}
    for row in held:
        place, texts = row["label"], row["choices"]
        if how == "letters":
            row["label"] = "ABC"[place]
        elif how == "texts":
            row["label"] = texts[place]
        elif how == "numpy's":
            row["choices"] = str(np.array(texts, dtype=object))
        elif how == "the hub's":
            row["label"] = "123"[place]
            row["choices"] = {"text": texts, "label": ["1", "2", "3"][: len(texts)]}
    return {"train": write_jsonl(root / "a.jsonl", held)}


def questions(**arguments: Any) -> MultipleChoice:
    data = MultipleChoice(**{"val_fraction": 0.25, "seed": 0, **arguments})
    data.setup()
    return data


@pytest.mark.parametrize("how", ["lists", "columns", "letters", "texts", "numpy's", "the hub's"])
def test_choices_and_labels_are_the_same_however_they_are_written(tmp_path: Path, how: str) -> None:
    data = questions(**written(tmp_path, how))
    assert data.task_info is not None and data.task_info.num_outputs == 1
    samples: Any = data.splits["train"].samples
    assert samples.choices == CHOICES and samples.targets.tolist() == RIGHT
    assert any("data.label_is" in note for note in data.notes), "how labels are read was guessed in silence"
    assert "with 2 choices" in data.describe() and "with 3 choices" in data.describe()


@pytest.mark.parametrize("tokenizer", [wordpiece, byte_bpe, unigram])
def test_each_choice_is_read_as_the_tokenizer_reads_the_pair(tmp_path: Path, tokenizer: Any) -> None:
    made = tokenizer()
    made.pad_token = made.pad_token or "<pad>"
    data = questions(**written(tmp_path, "lists"))
    data.settle(InputSpec("choices", tokenizer=made, max_length=20, network="test"))
    split = data.splits["train"]
    batch = split.__getitems__([Key(position, 0) for position in range(3)])
    asked = split.rows[:3].tolist()
    assert batch["select"].sum(1).tolist() == [len(CHOICES[row]) for row in asked] and batch["count"] == 3
    assert batch["y"].tolist() == [RIGHT[row] for row in asked]
    for at, row in enumerate(asked):
        for place, choice in enumerate(CHOICES[row]):
            ids = batch["x"]["input_ids"][at, place][batch["x"]["attention_mask"][at, place].bool()]
            assert ids.tolist() == made(f"what is {row}", choice, truncation=True, max_length=20)["input_ids"]
    assert not batch["x"]["attention_mask"][~batch["select"]].any(), "a choice that is not there has tokens"
    assert split.samples.shown(4) == {"question": "what is 4", "choices": ["Paris", "France"]}, (
        "another sample is shown"
    )


def test_long_contexts_are_cut_and_counted_by_question(tmp_path: Path) -> None:
    held = [{**row, "context": "long " * (60 * (i % 2)) + "x"} for i, row in enumerate(rows())]
    data = questions(train=write_jsonl(tmp_path / "a.jsonl", held), context_column="context")
    data.settle(InputSpec("choices", tokenizer=wordpiece(), max_length=32, network="test"))
    assert data.splits["train"].samples.truncated.tolist() == [bool(i % 2) for i in range(18)]


@pytest.mark.parametrize("tokenizer", [wordpiece, byte_bpe, unigram])
def test_only_the_context_is_cut_and_left_out_where_there_is_no_room(tmp_path: Path, tokenizer: Any) -> None:
    made = tokenizer()
    held = [{**row, "context": "long story " * (60 * (i % 2)) + "x"} for i, row in enumerate(rows())]
    held[3]["question"] = "which film " * 40
    data = questions(train=write_jsonl(tmp_path / "a.jsonl", held), context_column="context")
    data.settle(InputSpec("choices", tokenizer=made, max_length=40, network="test"))
    samples: Any = data.splits["train"].samples
    assert samples.truncated.tolist() == [bool(i % 2) for i in range(18)]
    of = [(row, choice) for row, texts in enumerate(CHOICES) for choice in texts]
    for at, (row, choice) in enumerate(of):
        asked, ids = held[row]["question"], samples.ids[at].tolist()
        if row == 3:
            assert ids == made(asked, choice, truncation=True, max_length=40)["input_ids"]
        else:
            read = made(f"{asked} {choice}", add_special_tokens=False)["input_ids"]
            whole = made(held[row]["context"], f"{asked} {choice}")["input_ids"]
            assert ids == whole if len(whole) <= 40 else len(ids) == 40 and contains(ids, read)


def contains(ids: list[int], part: list[int]) -> bool:
    return any(ids[at : at + len(part)] == part for at in range(len(ids)))


@pytest.mark.parametrize(
    ("changed", "values"),
    [
        ({"choices": ["a"]}, ("line 2", "'a'", "at least 2")),
        ({"choices": ["a", "b", "a"]}, ("line 2", "'a'", "twice")),
        ({"choices": ["a", ""]}, ("line 2", "a choice", "empty")),
        ({"choices": None}, ("line 2", "null", "'choices'")),
        ({"choices": "a or b"}, ("line 2", "'a or b'")),
        ({"choices": "[a, b]"}, ("line 2", "'[a, b]'", "JSON")),
        ({"choices": "['a' 'b', 'c']"}, ("line 2", "not a list of choices", "JSON")),
        ({"label": 2}, ("line 2", "2 choices", "count from 0")),
        ({"label": -1}, ("line 2", "-1", "2 choices")),
        ({"label": None}, ("line 2", "no label", "null")),
        ({"question": ""}, ("line 2", "'question'", "empty")),
    ],
)
def test_a_wrong_question_is_named_by_its_line_or_left_out(
    tmp_path: Path, changed: dict[str, Any], values: tuple[str, ...]
) -> None:
    held = rows()
    held[1] |= changed
    file = write_jsonl(tmp_path / "a.jsonl", held)
    with refused("data", *values):
        questions(train=file)
    data = questions(train=file, on_bad_sample="skip")
    assert data.skipped_report()["train"]["count"] == 1
    assert 1 not in {int(row) for split in data.splits.values() for row in split.rows}
    data.settle(InputSpec("choices", tokenizer=wordpiece(), max_length=32, network="test"))
    assert sum(len(batch["y"]) for batch in data.loader("train", 0, 1)) == len(data.splits["train"])


def test_a_choice_that_is_missing_before_another_is_named(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.csv", "question,one,two,three,label\n" + "q,x,,z,0\n" * 9)
    with refused("data", "line 2", "'two'"):
        questions(train=file, choice_columns=["one", "two", "three"])


def test_labels_that_could_be_read_in_two_ways_are_refused(tmp_path: Path) -> None:
    """The right answer of 1 + 1 may be the text 1, or the second choice."""
    held = [{"question": f"q {i}", "choices": ["1", "0", "2"], "label": "1"} for i in range(12)]
    file = write_jsonl(tmp_path / "a.jsonl", held)
    with refused("data", "'label'", "data.label_is", "index or text"):
        questions(train=file)
    assert set(questions(train=file, label_is="text").splits["train"].samples.targets.tolist()) == {0}


def test_places_none_of_which_is_0_are_said(tmp_path: Path) -> None:
    held = [{"question": f"q {i}", "choices": ["one", "two", "three"], "label": 1 + i % 2} for i in range(12)]
    data = questions(train=write_jsonl(tmp_path / "a.jsonl", held))
    assert any("none of them is 0" in note and "subtract 1" in note for note in data.notes)
    held[0]["label"] = 0
    assert not any("is 0" in note for note in questions(train=write_jsonl(tmp_path / "b.jsonl", held)).notes)


def test_what_has_no_effect_is_refused(tmp_path: Path) -> None:
    with refused("data.choices_column", "data.choice_columns"):
        MultipleChoice(train="a.csv", choices_column="x", choice_columns=["a", "b"])
    with refused("data.choice_columns", "at least 2"):
        MultipleChoice(train="a.csv", choice_columns=["a"])
    with refused("data.shots_per_class", "data.train_fraction"):
        MultipleChoice(train="a.csv", shots_per_class=2)
