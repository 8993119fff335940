"""Answers from scores, and their scores: against SQuAD's official scripts and one question at a time."""

from typing import Any

import numpy as np
import pytest
import torch

from sft_lightning.core.structures import Output, TaskInfo, Texts
from sft_lightning.tasks import make_task
from sft_lightning.tasks.answer_scores import OUTPUTS, OUTPUTS_OR_NONE, AnswerScore, scores
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters
from sft_lightning.tasks.question_answering import Asked
from tests.tasks.squad_by_hand import agreement, answer, by_script, divergence, measure, n_best

HOSTILE = [
    "",
    "the",
    "The  fox!",
    "fox",
    "a fox, an ox",
    "¡fox!",
    "Fox fox fox",
    "don't",
    "dont",
    "東京 タワー",
    "東京タワー",
    "-",
    "x²",
    "A",
    "an\u00a0ox",
]


@pytest.mark.parametrize("version", [1, 2])
def test_scores_of_answers_are_the_official_scripts(version: int) -> None:
    for said in HOSTILE:
        for right in ([one] for one in HOSTILE):
            assert scores(said, right, version == 2) == pytest.approx(by_script(said, right, version)), (said, right)
        for right in (["the", "fox"], ["a fox", "ox"], ["-", "the"]):
            assert scores(said, right, version == 2) == pytest.approx(by_script(said, right, version)), (said, right)
    if version == 2:
        assert scores("", [], True) == (1, 1) and scores("fox", [], True) == (0, 0)


def test_a_mean_over_no_question_is_not_a_number() -> None:
    meter = AnswerScore(f1=True, may_be_none=True, answered=False)
    meter.update(["fox"], [["fox"]])
    assert meter.compute().isnan()


def questions(count: int, seed: int) -> tuple[list[list[np.ndarray]], list[np.ndarray], list[Asked]]:
    """Scores and targets of each window, and what is known of each question: 1 to 3 windows of 2 to 40 tokens, one character
    each, with a space between.
    """
    rng = np.random.default_rng(seed)
    found, goals, asked = [], [], []
    for _ in range(count):
        sizes = rng.integers(2, 41, size=int(rng.integers(1, 4)))
        context = " ".join("abcdefgh"[i] for i in rng.integers(0, 8, size=60))
        begins = [int(rng.integers(0, 60 - size)) for size in sizes]
        places = [
            np.array([(0, 0), *((2 * (b + i), 2 * (b + i) + 1) for i in range(n - 1))])
            for n, b in zip(sizes, begins, strict=True)
        ]
        answers = tuple(str(context[2 * i : 2 * i + 3]) for i in rng.integers(0, 50, size=int(rng.integers(0, 3))))
        found.append([rng.normal(size=(int(n), 2)) * 3 for n in sizes])
        goals.append(np.array([(0, 0) if rng.random() < 0.3 else sorted(rng.integers(1, n, size=2)) for n in sizes]))
        asked.append(Asked(context, tuple(places), answers))
    return found, goals, asked


def batch_of(found: Any, goals: Any, asked: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    most, width = 5, max(len(w) for of in found for w in of) + 3  # more padding than is needed
    select, y = torch.zeros(len(found), most, width).bool(), torch.full((len(found), most, 2), -1)
    for n, of in enumerate(found):
        for k, window in enumerate(of):
            select[n, k, 1 : 1 + len(window)] = True
            y[n, k] = torch.from_numpy(goals[n][k])
    logits = torch.from_numpy(np.concatenate([w for of in found for w in of]))
    return logits, {"select": select, "y": y, "beside": Texts(asked), "count": len(found)}


@pytest.mark.parametrize("labels", [OUTPUTS, OUTPUTS_OR_NONE])
def test_answers_and_metrics_are_those_of_one_question_at_a_time(labels: list[str]) -> None:
    none, task = labels == OUTPUTS_OR_NONE, make_task(TaskInfo("extractive_qa", 2, labels))
    found, goals, asked = questions(30, seed=0)
    if not none:
        asked = [a._replace(answers=a.answers or ("a",)) for a in asked]
    meters = {"loss": MeanLoss(), **task.make_metrics()}
    said = []
    for part in (slice(0, 1), slice(1, 12), slice(12, 30)):
        logits, batch = batch_of(found[part], goals[part], asked[part])
        update_meters(task, meters, Output(logits, logits), batch)
        said += task.decode(Output(logits, logits), batch)
        for spoken, row in zip(task.said(Output(logits, logits), batch) or [], said[part], strict=True):
            assert (spoken.said, spoken.start) == (row["answer"], row["start"]), "the page marks another place"
    wanted = measure(found, goals, asked, none)
    values = read_meters(meters)
    assert values == pytest.approx({name: wanted[name] for name in values}, rel=1e-6)
    assert set(values) == ({*wanted} if none else {"loss", "f1", "exact_match"})
    for row, of, question in zip(said, found, asked, strict=True):
        listed = row.pop("n_best")
        assert row == pytest.approx(answer(of, question, none), abs=2e-6)
        texts, chances = [one["answer"] for one in listed], [one["score"] for one in listed]
        assert texts[0] == row["answer"] and chances == sorted(chances, reverse=True) and len(listed) <= 5
        assert dict(zip(texts, chances, strict=True)) == pytest.approx(n_best(of, question, none), abs=2e-6)
        assert all(
            one["start"] is None or question.context[one["start"] : one["end"]] == one["answer"] for one in listed
        )


def test_what_two_networks_say_is_compared_over_the_tokens_of_each_window_whatever_the_padding() -> None:
    task = make_task(TaskInfo("extractive_qa", 2, OUTPUTS))
    found, goals, asked = questions(20, seed=1)
    rng = np.random.default_rng(2)
    other = [[w + rng.normal(size=w.shape) for w in of] for of in found]
    (mine, batch), (theirs, _) = batch_of(found, goals, asked), batch_of(other, goals, asked)
    student = task.rows(mine, batch).requires_grad_()
    teacher = task.rows(theirs, batch)
    pairs = list(zip(found, other, strict=True))
    kl = task.divergence(student, teacher)
    assert kl.tolist() == pytest.approx([divergence(*pair) for pair in pairs])
    assert task.same(student, teacher).tolist() == pytest.approx([agreement(*pair) for pair in pairs])
    squares = (task.vectors(student) - task.vectors(teacher)).square().sum(-1)
    wanted = [np.mean([((a - b) ** 2).sum() for a, b in zip(one, two, strict=True)]) for one, two in pairs]
    assert squares.tolist() == pytest.approx(wanted)
    (kl.sum() + squares.sum() + task.row_loss(student, batch["y"])).backward()
    assert student.grad is not None and student.grad.isfinite().all(), "padding gives a gradient that is not finite"
    assert student.grad[student.isinf()].eq(0).all()
    drawn = task.draw(teacher, np.random.default_rng(0))
    assert drawn.shape == (20, 5, 2) and drawn[batch["y"] < 0].eq(-1).all()
    assert task.row_loss(teacher, drawn).isfinite(), "a target is drawn where there is no token"


def test_a_question_weighs_the_same_however_many_tokens_it_has() -> None:
    task = make_task(TaskInfo("extractive_qa", 2, OUTPUTS))
    logits, batch = batch_of(*questions(9, seed=3))
    items = task.items(Output(logits, torch.ones(len(logits), 4)), batch)
    assert items.n == 9 and items.weights is not None
    sums = torch.stack([part.sum() for part in items.weights.split(batch["select"].flatten(1).sum(1).tolist())])
    torch.testing.assert_close(sums, torch.ones(9))
