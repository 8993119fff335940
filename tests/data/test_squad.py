"""Questions about a text: windows, targets and answers for each tokenizer family; splits by text."""

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
from tests.data.squad_files import article, asked, write
from tests.networks.tiny import byte_bpe, unigram, wordpiece
from tests.refused import refused

HARD = [
    *("dog", "Paris", "£5.50", "don't", "(1989–1990)", "co-op,", "Größe", "naïve"),
    normalize("NFD", "café"),
    *("ﬁnally", "１９８９", "zero\u200bwidth", "東京タワー", "😀👍🏽", "Ⅻ", "x²", "ǅ"),
]


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


def test_too_many_folds_are_counted_in_texts_and_not_in_questions(tmp_path: Path) -> None:
    of_text = [article(f"The fox {t}.", *(asked(f"{t}-{q}", ("fox", 4)) for q in range(4))) for t in range(5)]
    with refused("data.folds", "groups of samples that stay together", "4, got 6"):
        SQuAD(train=write(tmp_path / "a.json", *of_text), seed=0, folds=6).setup()
    with refused("data.val_fraction", "groups of samples that stay together (1)"):
        SQuAD(train=write(tmp_path / "a.json", of_text[0]), seed=0).setup()


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
    assert "1 answer of train in no window, learnt as none" in data.describe()
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


@pytest.mark.parametrize("split", ["train", "val", "predict"])
def test_a_context_without_a_token_is_refused_or_left_out_of_its_split(tmp_path: Path, split: str) -> None:
    good = [article(f"a fox {i}", asked(f"{i}", ("fox", 2))) for i in range(9)]
    empty = article("\u200b", asked("empty"))
    files = {name: write(tmp_path / f"{name}.json", *good, *([empty] * (name == split))) for name in {"train", split}}
    with refused("data", f"{split}.json question empty", "no token"):
        settled(wordpiece(), **files)
    data = settled(wordpiece(), **files, on_bad_sample="skip")
    assert sum(map(len, data.skipped.values())) == 1
    assert sum(len(data.splits[name]) for name in data.splits) == (18 if split == "val" else 9)
