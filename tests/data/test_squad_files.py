"""Files of questions: their forms, and faults that are refused, left out or read as meant, and counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from sft_lightning.data import SQuAD
from sft_lightning.data.text.questions import QuestionRows
from tests.data.squad_files import article, asked, write
from tests.refused import refused


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (
            lambda q, p: q["answers"].append({"text": "fox", "answer_start": 3}),
            ("'fox' is not at its offset 3", "' qu'", "it is at 10"),
        ),
        (lambda q, p: q["answers"].append({"text": "fox", "answer_start": 999}), ("answer_start 999 is outside",)),
        (lambda q, p: q["answers"].append({"text": "fox", "answer_start": -1}), ("answer_start -1 is outside",)),
        (lambda q, p: q["answers"].append({"text": "fox"}), ("no 'answer_start'",)),
        (lambda q, p: q["answers"].append({"text": " ", "answer_start": 3}), ("'text' of an answer is empty",)),
        (lambda q, p: q["answers"].append("fox"), ("an answer is a text",)),
        (lambda q, p: q.update(answers=None), ("no 'answers'",)),
        (lambda q, p: q.update(answers=7), ("'answers' is a number",)),
        (lambda q, p: q.update(is_impossible=True), ("is_impossible, but has 1 answers",)),
        (lambda q, p: q.update(is_impossible="TRUE"), ("is_impossible, but has 1 answers",)),
        (lambda q, p: q.update(answers=[], is_impossible="0"), ("has no answers, but is not is_impossible",)),
        (lambda q, p: q.update(is_impossible="perhaps"), ("is_impossible is 'perhaps'",)),
        (lambda q, p: q.update(answers={"text": 1.5, "answer_start": [0]}), ("an answer holds a number (1.5)",)),
        (lambda q, p: q.update(answers=[], is_impossible=False), ("has no answers, but is not is_impossible",)),
        (lambda q, p: q.update(question=" "), ("'question' is empty",)),
        (lambda q, p: q.pop("question"), ("'question' has no value",)),
        (lambda q, p: p.update(context=""), ("'context' is empty",)),
        (lambda q, p: q.update(id="other 2"), ("the id 'other 2' occurs before",)),
    ],
)
def test_a_question_that_cannot_be_used_is_named_or_left_out_and_counted(
    tmp_path: Path, break_it: Callable[[dict[str, Any], dict[str, Any]], Any], words: tuple[str, ...]
) -> None:
    others = [article(f"The quick fox {i}.", asked(f"other {i}", ("quick", 4))) for i in range(20)]
    bad = article("The quick fox.", asked("bad", ("quick", 4)))
    break_it(bad["paragraphs"][0]["qas"][0], bad["paragraphs"][0])
    path = write(tmp_path / "train.json", *others, bad)
    with refused("data", f"{path} question", *words):
        SQuAD(train=path, seed=0).setup()
    data = SQuAD(train=path, on_bad_sample="skip", val_fraction=0.2, seed=0)
    data.setup()
    (why,) = data.skipped["train"].values()
    assert all(word in why for word in words)
    assert len(data.splits["train"]) + len(data.splits["val"]) == 20
    assert data.task_info is not None and data.task_info.labels == ["start", "end"], "a row left out has no answer"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"data": [{"paragraphs": 3}]}', "'paragraphs' is a number"),
        ('{"data": [{"paragraphs": [{"context": "x"}]}]}', "has no 'qas'"),
        ('{"data": [{"paragraphs": []}]}', "has no questions"),
        ('[{"question": "x", "text": "y", "answers": []}]', "has no column 'context'"),
        ('[{"question": "x", "context": "y"}]', "has no column 'answers'"),
        ('{"data": [', "malformed"),
    ],
)
def test_a_file_that_has_no_questions_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "train.json").write_text(content)
    with refused("data", words):
        SQuAD(train=str(tmp_path / "train.json"), seed=0).setup()


def test_other_spellings_of_an_answer_are_read_as_the_text_has_it_and_counted(tmp_path: Path) -> None:
    composed, decomposed = normalize("NFC", "café"), normalize("NFD", "café")
    questions = [asked("a", (composed, 4)), asked("b", (" café ", 3)), asked("c", (decomposed, 4), (decomposed, 4))]
    path = write(
        tmp_path / "a.json",
        *(article(f"the {decomposed} {i}", *questions[:1]) for i in range(1)),
        article(f"the {composed} one", questions[1]),
        article(f"the {decomposed} two", questions[2]),
    )
    data = SQuAD(train=path, val=write(tmp_path / "v.json", article("the cat", asked("v", ("cat", 4)))), seed=0)
    data.setup()
    rows = data.splits["train"].samples
    assert isinstance(rows, QuestionRows) and rows.answers is not None
    assert [[a.text for a in of] for of in rows.answers] == [[decomposed], [composed], [decomposed]]
    notes = "\n".join(data.remarks())
    assert "another Unicode form than its context is read as the context has it (1 time" in notes
    assert "white space at the ends of an answer is left out (1 time" in notes


def test_questions_without_an_answer_are_counted_in_any_split_and_some_must_have_one(tmp_path: Path) -> None:
    train = write(tmp_path / "a.json", *(article(f"a fox {i}", asked(f"{i}", ("fox", 2))) for i in range(9)))
    empty = write(tmp_path / "v.json", *(article(f"a cat {i}", asked(f"v{i}", is_impossible=True)) for i in range(3)))
    data = SQuAD(train=train, val=empty, seed=0)
    data.setup()
    assert data.task_info is not None and data.task_info.labels == ["start or none", "end or none"]
    assert any("3 of 3 questions of val have no answer" in line for line in data.remarks())
    with refused("data.train", "no question with an answer"):
        SQuAD(train=empty, seed=0).setup()


def test_tables_and_json_of_the_hubs_form_are_read_alike(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", *(article(f"a fox {i}", asked(f"{i}", ("fox", 2))) for i in range(9)))
    rows = [
        {
            "id": f"{i}",
            "question": f"What is {i}?",
            "context": f"a fox {i}",
            "answers": {"text": ["fox"], "answer_start": [2]},
        }
        for i in range(9)
    ]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [f"What is {i}?,a fox {i},fox,2" for i in range(9)]
    (tmp_path / "c.csv").write_text("\n".join(["question,context,answer,answer_start", *lines]) + "\n")
    (tmp_path / "d.json").write_text(json.dumps({"version": "1", "data": rows}))
    for name, array in (
        ("e", "{}"),
        ("f", "array({}, dtype=object)"),
        ("g", "array({})"),
    ):  # pandas', datasets', numpy's
        spelled = [(array.format("['fox']"), array.replace(", dtype=object", "").format("[2]")) for _ in range(9)]
        cells = [f"\"{{'text': {text}, 'answer_start': {start}}}\"" for text, start in spelled]
        lines = [f"What is {i}?,a fox {i},{cell}" for i, cell in enumerate(cells)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["question,context,answers", *lines]) + "\n")
    prints = set()
    for file in (path, *(str(tmp_path / name) for name in ("b.jsonl", "c.csv", "d.json", "e.csv", "f.csv", "g.csv"))):
        data = SQuAD(train=file, seed=0)
        data.setup()
        prints.add(data.fingerprint()["train"])
    assert len(prints) == 1


def test_one_answer_may_stand_without_lists(tmp_path: Path) -> None:
    bare = {**asked("a"), "answers": {"text": "quick", "answer_start": 4.0}}
    rows = SQuAD(train=write(tmp_path / "a.json", article("The quick fox.", bare))).load().train
    assert isinstance(rows, QuestionRows) and rows.answers is not None
    assert [tuple(one) for one in rows.answers[0]] == [(4, "quick")]
