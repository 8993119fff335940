"""Questions about a text: windows, targets and answers for each tokenizer family; files and their faults; splits by text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
import torch
from tokenizers import normalizers

from sft_lightning.core.structures import InputSpec, Output, TaskInfo
from sft_lightning.data import SQuAD
from sft_lightning.data.sampler import Key
from sft_lightning.data.split import Split
from sft_lightning.data.text.questions import QuestionRows
from sft_lightning.tasks import make_task
from tests.networks.tiny import byte_bpe, unigram, wordpiece
from tests.refused import refused

HARD = [
    *("dog", "Paris", "£5.50", "don't", "(1989–1990)", "co-op,", "Größe", "naïve"),
    normalize("NFD", "café"),
    *("ﬁnally", "１９８９", "zero\u200bwidth", "東京タワー", "😀👍🏽", "Ⅻ", "x²", "ǅ"),
]


def article(context: str, *qas: dict[str, Any]) -> dict[str, Any]:
    return {"title": "t", "paragraphs": [{"context": context, "qas": list(qas)}]}


def asked(name: str, *answers: tuple[str, int], **rest: Any) -> dict[str, Any]:
    said = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": f"What is {name}?", "answers": said, **rest}


def write(path: Path, *articles: dict[str, Any]) -> str:
    path.write_text(json.dumps({"version": "2.0", "data": list(articles)}, ensure_ascii=False), encoding="utf-8")
    return str(path)


def left(tokenizer: Any) -> Any:
    tokenizer.padding_side = "left"
    return tokenizer


def compatible() -> Any:
    """As XLM-R's: NFKC, which changes lengths."""
    made = unigram()
    made.backend_tokenizer.normalizer = normalizers.NFKC()
    return made


def bpe() -> Any:
    return byte_bpe(bos=True, pad="<pad>")


FAMILIES: dict[str, Callable[[], Any]] = {
    "WordPiece": wordpiece,
    "bytes": bpe,
    "bytes, padded left": lambda: left(bpe()),
    "Unigram": unigram,
    "Unigram with NFKC": compatible,
}


def settled(tokenizer: Any, **arguments: Any) -> SQuAD:
    data = SQuAD(**{"batch_size": 4, "seed": 0, "val_fraction": 0.2, "max_length": 48, **arguments})
    data.setup("predict" if "predict" in arguments else "fit")
    data.settle(InputSpec("questions", tokenizer=tokenizer, max_length=64))
    return data


def right_answers(data: SQuAD, split: str) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """What the task says if the scores are those of the targets; with the answers that are right."""
    task, found = make_task(data.task_info or TaskInfo("extractive_qa", 2)), []
    rows = Split(data.splits[split].samples, data.splits[split].rows, None, train=False)
    for begin in range(0, len(rows), 4):
        batch = rows.__getitems__([Key(at, 0) for at in range(begin, min(begin + 4, len(rows)))])
        counts = batch["select"].sum(-1)
        scores = torch.zeros(*counts.shape, int(counts.max()), 2)
        goals = batch["y"][:, : counts.shape[1]].clamp(min=0)
        scores.scatter_(2, goals[:, :, None], 20.0)
        of_tokens = scores[torch.arange(scores.shape[2]) < counts[..., None]]
        said = task.decode(Output(of_tokens, of_tokens), batch)
        found += list(zip(said, (question.answers for question in batch["beside"]), strict=True))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_the_right_scores_give_the_right_answer_in_the_users_own_characters(tmp_path: Path, family: str) -> None:
    """Texts over several windows, answers anywhere, also across their borders; characters that normalise to other lengths."""
    rng = np.random.default_rng(0)
    articles, where = [], {}
    # Without a normaliser, a Unigram joins words with unknown characters, and such a space between, to one unknown token.
    spaces = [" ", "  ", "\n", " \u200b ", *(["\u00a0"] if family != "Unigram" else [])]
    for number in range(30):
        words = [str(w) for w in rng.choice(HARD, size=int(rng.integers(3, 40)))]
        gaps = [str(g) for g in rng.choice(spaces, size=len(words))]
        context = "".join(w + g for w, g in zip(words, gaps, strict=True)).strip()
        first = int(rng.integers(len(words)))
        start = len("".join(w + g for w, g in zip(words[:first], gaps, strict=False)))
        where[f"q{number}"] = start
        articles.append(article(context, asked(f"q{number}", (words[first], start))))
    data = settled(FAMILIES[family](), train=write(tmp_path / "hard.json", *articles), doc_stride=20)
    rows = data.splits["train"].samples
    assert isinstance(rows, QuestionRows)
    assert len(rows.places) > 2 * len(rows), "the texts do not need several windows"
    assert not any(flaws.any() for flaws in rows.flaws.values()), "an answer cannot be learnt"
    for split in ("train", "val"):
        for at, (said, right) in enumerate(right_answers(data, split)):
            row = int(data.splits[split].rows[at])
            assert said["answer"] == right[0], rows.contexts[row]
            assert said["start"] == where[f"q{row}"], "the same text elsewhere"
            assert rows.contexts[row][said["start"] : said["end"]] == said["answer"]


def test_windows_share_tokens_and_hold_all_of_the_context(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(60)]
    context = " ".join(words)
    last = (words[-1], context.index(words[-1]))
    data = settled(
        wordpiece(),
        train=write(tmp_path / "a.json", *(article(f"{context} {i}", asked(f"{i}", last)) for i in range(10))),
        max_length=32,
        doc_stride=8,
    )
    rows = data.splits["train"].samples
    assert isinstance(rows, QuestionRows)
    of_first = range(rows.windows[0], rows.windows[1])
    assert len(of_first) > 3
    assert all(rows.ids.lengths[w] <= 32 for w in of_first)
    assert [
        len(set(map(tuple, rows.places[w][1:])) & set(map(tuple, rows.places[w + 1][1:]))) for w in of_first[:-1]
    ] == [8] * (len(of_first) - 1), "not doc_stride tokens are shared"
    assert not rows.goals[0, : len(of_first) - 1].any(), "a window without the answer has another target than none"
    assert rows.goals[0, len(of_first) - 1].all()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (
            lambda q, p: q["answers"].append({"text": "fox", "answer_start": 3}),
            ("'fox' is not at its offset 3", "' qu'"),
        ),
        (lambda q, p: q["answers"].append({"text": "fox", "answer_start": 999}), ("answer_start 999 is outside",)),
        (lambda q, p: q["answers"].append({"text": "fox", "answer_start": -1}), ("answer_start -1 is outside",)),
        (lambda q, p: q["answers"].append({"text": "fox"}), ("no 'answer_start'",)),
        (lambda q, p: q["answers"].append({"text": " ", "answer_start": 3}), ("no 'text'",)),
        (lambda q, p: q["answers"].append("fox"), ("an answer is a text",)),
        (lambda q, p: q.update(answers=None), ("no 'answers'",)),
        (lambda q, p: q.update(answers=7), ("'answers' is a number",)),
        (lambda q, p: q.update(is_impossible=True), ("is_impossible, but has 1 answers",)),
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
    data = settled(wordpiece(), train=path, on_bad_sample="skip")
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


def test_no_context_is_in_two_splits_wherever_it_stands(tmp_path: Path) -> None:
    def text(number: int) -> str:
        return f"The  quick fox {number // 2}." if number % 2 else f"The quick fox {number // 2}."

    articles = [
        article(text(i), *(asked(f"{i}-{q}", ("fox", text(i).index("fox"))) for q in range(3))) for i in range(60)
    ]
    path = write(tmp_path / "a.json", *articles)
    for more in ({}, {"train_fraction": 0.5}, {"folds": 3, "fold": 1}):
        data = SQuAD(train=path, seed=0, val_fraction=0.2, test_fraction=0.2, **more)
        data.setup()
        plain = {name: {s.samples.plain_contexts[r] for r in s.rows} for name, s in data.splits.items()}
        assert not (plain["train"] & plain["val"] or plain["train"] & plain["test"] or plain["val"] & plain["test"]), (
            more
        )
        assert all(len(split) == 6 * len(plain[name]) for name, split in data.splits.items()), "questions got lost"


def test_a_context_of_the_training_file_in_another_file_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", *(article(f"a fox {i}", asked(f"{i}", ("fox", 2))) for i in range(9)))
    data = SQuAD(train=path, val=write(tmp_path / "v.json", article("a fox  3", asked("v", ("fox", 2)))), seed=0)
    data.setup()
    assert any("1 of 1 question of val are about texts of train too" in line for line in data.remarks())


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
    prints = set()
    for file in (path, str(tmp_path / "b.jsonl"), str(tmp_path / "c.csv")):
        data = SQuAD(train=file, seed=0)
        data.setup()
        prints.add(data.fingerprint()["train"])
    assert len(prints) == 1


def test_questions_to_predict_need_no_answers_and_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("question,context\n" + "".join(f"Who {i}?,Fox {i} did.\n" for i in range(9)))
    data = settled(wordpiece(), predict=str(tmp_path / "p.csv"))
    batch = data.splits["predict"].__getitems__([Key(at, 0) for at in range(9)])
    assert "y" not in batch and [q.context for q in batch["beside"]] == [f"Fox {i} did." for i in range(9)]


def test_what_cannot_be_learnt_is_counted(tmp_path: Path) -> None:
    context = "word " * 40 + "end"
    faults = [
        article(context, asked("in no window", (context[:199], 0))),
        article("antidisestablishment", asked("within a token", ("dis", 4))),
    ]
    others = [article(f"a fox {i}", asked(f"{i}", ("fox", 2))) for i in range(9)]
    val = write(tmp_path / "v.json", article("a cat", asked("v", ("cat", 2))))
    data = settled(byte_bpe(bos=True, pad="<pad>"), train=write(tmp_path / "a.json", *faults, *others), val=val)
    assert "1 answer of train lie in no window, and train as none" in data.describe()
    long = "What is " + "very " * 60 + "long?"
    rows = QuestionRows([long], ["a fox"], None, data.splits["train"].samples.table)
    rows.use(wordpiece(), 48)
    rows.ready()
    assert rows.truncated.tolist() == [True] and rows.ids.lengths.max() <= 48


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"doc_stride": 30}, ("data.doc_stride", "leave no room for a question in windows of 48 tokens")),
        ({"classes": ["a", "b"]}, ("data.classes",)),
        ({"shots_per_class": 3}, ("data.shots_per_class", "train_fraction")),
        ({"path": "squad"}, ("data", "both set")),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, arguments: Any, words: tuple[str, ...]) -> None:
    path = write(tmp_path / "a.json", *(article(f"a fox {i}", asked(f"{i}", ("fox", 2))) for i in range(9)))
    with refused(*words):
        settled(wordpiece(), train=path, **arguments)


def test_without_a_limit_there_is_one_window_and_no_stride(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", *(article(f"a fox {i}", asked(f"{i}", ("fox", 2))) for i in range(9)))
    data = SQuAD(train=path, seed=0, doc_stride=8)
    data.setup()
    with refused("data.doc_stride", "has no effect"):
        data.settle(InputSpec("questions", tokenizer=wordpiece()))
