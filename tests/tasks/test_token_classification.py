"""Tags: entities as conlleval reads them, scores against a loop by hand, one prediction a sentence."""

import itertools
import random

import pytest
import torch
from sklearn.metrics import accuracy_score

from sft_lightning.core.structures import Output, TaskInfo
from sft_lightning.tasks import make_task
from sft_lightning.tasks.entity_scores import EntityScores
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters
from sft_lightning.tasks.schemes import entities
from tests.refused import refused

TAGS = ["O", "B-a", "I-a", "B-b", "I-b"]
INFO = TaskInfo("token_classification", 5, TAGS)


def by_hand(tags: list[str]) -> set[tuple[int, int, str]]:
    """All spans that are an entity: every word of one type, begun rightly, not continued, with no beginning inside."""

    def begins(at: int) -> bool:
        before = tags[at - 1] if at else "O"
        return tags[at][0] == "B" or (tags[at][0] == "I" and before[2:] != tags[at][2:])

    found = set()
    for start, end in itertools.combinations(range(len(tags) + 1), 2):
        inside = tags[start:end]
        one_type = len({t[2:] for t in inside}) == 1 and "O" not in inside
        whole = end == len(tags) or tags[end] == "O" or begins(end)
        if one_type and begins(start) and not any(begins(at) for at in range(start + 1, end)) and whole:
            found.add((start, end, tags[start][2:]))
    return found


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_entities_of_all_sentences_of_up_to_four_words_are_those_found_by_hand(length: int) -> None:
    for tags in itertools.product(TAGS, repeat=length):
        assert set(entities(tags)) == by_hand(list(tags)), tags


def test_entities_that_touch_change_type_or_lack_their_beginning() -> None:
    assert list(entities(["B-a", "B-a", "I-a", "I-b", "O", "I-b", "I-b"])) == [
        (0, 1, "a"),
        (1, 3, "a"),
        (3, 4, "b"),
        (5, 7, "b"),
    ]


def test_entity_scores_count_over_all_sentences_whatever_the_batches() -> None:
    draw = random.Random(0)
    true = [[draw.randrange(5) for _ in range(draw.randint(1, 9))] for _ in range(40)]
    said = [[t if draw.random() < 0.7 else draw.randrange(5) for t in row] for row in true]
    mine, theirs = ([by_hand([TAGS[i] for i in row]) for row in rows] for rows in (said, true))
    right = sum(len(a & b) for a, b in zip(mine, theirs, strict=True))
    precision, recall = right / sum(map(len, mine)), right / sum(map(len, theirs))
    wanted = {"precision": precision, "recall": recall, "f1": 2 * precision * recall / (precision + recall)}
    for score, value in wanted.items():
        meter = EntityScores(INFO, [f"entity_{score}"])
        for start in (0, 1, 17):
            end = {0: 1, 1: 17, 17: 40}[start]
            meter.update(said[start:end], true[start:end])
        assert meter.compute() == {f"entity_{score}": pytest.approx(value)}, score


def test_an_entity_score_of_nothing_is_zero_and_no_nan() -> None:
    for score in ("precision", "recall", "f1"):
        meter = EntityScores(INFO, [f"entity_{score}"], each_type=True)
        meter.update([[0, 0]], [[0, 0]])
        assert meter.compute() == {f"entity_{score}": 0.0}, score


def test_sentences_keep_their_words_among_padding_and_fillers() -> None:
    """A batch of three sentences with two, none (a filler) and three words."""
    task = make_task(TaskInfo("token_classification", 5, TAGS, ["entity_f1", "token_accuracy"]))
    select = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 0, 0, 0], [0, 1, 1, 0, 1]]).bool()
    y = torch.tensor([1, 2, 3, 4, 0])
    batch = {"select": select, "real": torch.tensor([True, False, True]), "y": y, "count": 5}
    logits = 5 * torch.nn.functional.one_hot(torch.tensor([1, 2, 3, 0, 0]), 5).float()
    output = Output(logits, logits)
    meters = {"loss": MeanLoss(), **task.make_metrics()}
    update_meters(task, meters, output, batch)
    found = read_meters(meters)
    assert found["entity_f1"] == 0.5, "one of two entities is right; the other is too short"
    assert found["token_accuracy"] == pytest.approx(accuracy_score(y, logits.argmax(1)))
    assert [row["tags"] for row in task.decode(output, batch)] == [["B-a", "I-a"], ["B-b", "O", "O"]]
    assert task.select(batch) is select


def test_entities_are_measured_where_the_tags_have_a_scheme_and_words_where_not() -> None:
    """Also of a source task, whose tags come with the pretrained weights: target and source are measured alike."""
    found = {scheme: make_task(TaskInfo("token_classification", 3, tags)) for scheme, tags in SCHEMES.items()}
    assert {scheme: task.primary.name for scheme, task in found.items()} == {
        "entities": "entity_f1",
        "parts of speech": "token_accuracy",
        "mixed": "token_accuracy",
        "no names": "token_accuracy",
    }
    assert found["entities"].metric_names == ["entity_f1", "entity_precision", "entity_recall", "token_accuracy"]


SCHEMES = {
    "entities": ["O", "B-x", "I-x"],
    "parts of speech": ["NOUN", "VERB", "X"],
    "mixed": ["O", "B-x", "other"],
    "no names": [],
}


def test_entity_scores_need_tags_with_a_scheme() -> None:
    with refused("metrics", "entity_f1", "token_accuracy"):
        make_task(TaskInfo("token_classification", 2, ["NOUN", "VERB"], ["entity_f1"])).make_metrics()
