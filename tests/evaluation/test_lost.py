"""Samples that were lost and gained: counted by hand, by class, with paired intervals."""

import numpy as np
import pytest
from sklearn.metrics import recall_score

from sft_lightning.evaluation.lost import beyond_guesses, lost_and_gained, lost_and_gained_in_words
from sft_lightning.evaluation.predictions import Predictions
from sft_lightning.tasks.base import Said

LABELS = ["a", "b", "c", "never"]


def said(targets: list[int], classes: list[int]) -> Predictions:
    n = len(targets)
    return Predictions(np.arange(n), np.array(targets), np.array(classes), np.full(n, 0.9))


def test_counts_and_changes_of_recall_are_those_of_the_samples_one_by_one() -> None:
    random = np.random.default_rng(0)
    y = random.choice(3, 200, p=(0.5, 0.3, 0.2)).tolist()
    before = [t if random.random() < 0.9 else int(random.integers(3)) for t in y]
    after = [t if random.random() < (0.9, 0.5, 0.8)[t] else int(random.integers(3)) for t in y]
    found = lost_and_gained(said(y, before), said(y, after), LABELS, 10)
    triples = list(zip(y, before, after, strict=True))
    assert found["lost"] == sum(b == t != a for t, b, a in triples)
    assert found["gained"] == sum(b != t == a for t, b, a in triples)
    change = recall_score(y, after, average=None) - recall_score(y, before, average=None)
    by_label = {entry["label"]: entry for entry in found["classes"]}
    assert set(by_label) == {"a", "b", "c"}, "a class without samples is listed"
    for label, expected in zip("abc", change, strict=True):
        entry = by_label[label]
        assert entry["change"] == pytest.approx(expected, abs=1e-6) and entry["low"] <= entry["change"] <= entry["high"]
    assert found["classes"][0]["label"] == "b", "the class that lost most comes first"
    assert sum(entry["n"] for entry in found["classes"]) == found["n"] == 200


def test_the_loss_is_a_share_of_what_was_above_chance() -> None:
    y = [0, 0, 0, 0, 1, 1, 2, 2]
    found = lost_and_gained(said(y, y), said(y, [0, 0, 0, 0, 0, 0, 2, 2]), LABELS, 10)
    assert found["chance"] == 0.5 and found["lost_above_chance"] == pytest.approx(0.25 / 0.5)
    guessed = lost_and_gained(said(y, [0] * 8), said(y, [0] * 8), LABELS, 10)
    assert guessed["lost_above_chance"] is None and guessed["lost"] == 0


@pytest.mark.parametrize("k", [2, 4, 10])
def test_lucky_guesses_are_taken_out_of_what_was_lost_and_gained(k: int) -> None:
    random, n = np.random.default_rng(k), 200_000
    knew = random.random(n) < 0.6
    knows = np.where(knew, random.random(n) < 0.9, random.random(n) < 0.2)
    right = [held | (random.random(n) < 1 / k) for held in (knew, knows)]
    found = beyond_guesses(*right, k)
    assert found["lost"] == pytest.approx((knew & ~knows).sum(), rel=0.05)
    assert found["gained"] == pytest.approx((~knew & knows).sum(), rel=0.05)
    net = found["lost"] - found["gained"]
    assert net == pytest.approx((right[0].sum() - right[1].sum()) / (1 - 1 / k), abs=0.02), "not the corrected change"
    same = random.random(1000) < 0.8
    assert beyond_guesses(same, same, k) == {"lost": 0.0, "gained": 0.0}


def test_texts_and_tags_count_by_how_much_is_right() -> None:
    before = {1: Said("x", score=1.0), 2: Said("x", score=0.5), 3: Said("x"), 5: Said("x", score=0.2)}
    after = {
        1: Said("y", score=0.5),
        2: Said("y", score=1.0),
        3: Said("y"),
        4: Said("y", score=1.0),
        5: Said("z", score=0.2),
    }
    assert lost_and_gained_in_words(before, after) == {"n": 3, "lost": 1, "gained": 1}
    assert lost_and_gained_in_words({3: Said("x")}, {3: Said("y")}) == {}
