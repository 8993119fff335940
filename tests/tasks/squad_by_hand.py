"""SQuAD's official scripts (evaluate-v1.1.py, evaluate-v2.0.py), and answers from scores, one question at a time in numpy."""

import collections
import math
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

Windows = list[np.ndarray]
"""Scores `[tokens, 2]` of each window of a question, the first for no answer"""


def normalize_answer(s: str) -> str:
    def white_space_fix(text: str) -> str:
        return " ".join(text.split())

    lowered = "".join(ch for ch in s.lower() if ch not in set(string.punctuation))
    return white_space_fix(re.sub(r"\b(a|an|the)\b", " ", lowered))


def f1_v1(prediction: str, ground_truth: str) -> float:
    said, true = normalize_answer(prediction).split(), normalize_answer(ground_truth).split()
    same = sum((collections.Counter(said) & collections.Counter(true)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(true)
    return (2 * precision * recall) / (precision + recall)


def f1_v2(a_gold: str, a_pred: str) -> float:
    gold, pred = normalize_answer(a_gold).split(), normalize_answer(a_pred).split()
    if len(gold) == 0 or len(pred) == 0:
        return float(gold == pred)
    return f1_v1(a_pred, a_gold)


def by_script(said: str, right: Sequence[str], version: int) -> tuple[float, float]:
    """(exact match, F1), each in [0, 1]."""
    if version == 1:
        exact = max(float(normalize_answer(said) == normalize_answer(one)) for one in right)
        return exact, max(f1_v1(said, one) for one in right)
    gold = [one for one in right if normalize_answer(one)] or [""]
    exact = max(float(normalize_answer(one) == normalize_answer(said)) for one in gold)
    return exact, max(f1_v2(one, said) for one in gold)


def spans(windows: Windows, longest: int = 30) -> list[tuple[float, int, int, int]]:
    """(score, window, first, last) of every answer that may be said."""
    return [
        (float(of[first, 0] + of[last, 1]), window, first, last)
        for window, of in enumerate(windows)
        for first in range(1, len(of))
        for last in range(first, min(len(of), first + longest))
    ]


def answer(windows: Windows, asked: Any, may_be_none: bool) -> dict[str, Any]:
    """The best answer, as predictions.jsonl has it."""
    found = spans(windows)
    best, window, first, last = max(found)
    none = min(float(of[0].sum()) for of in windows)
    total = logsumexp([score for score, *_ in found] + ([none] if may_be_none else []))
    said: dict[str, Any] = {"answer": "", "score": math.exp(none - total), "start": None, "end": None}
    if not may_be_none or best >= none:
        start, end = int(asked.places[window][first][0]), int(asked.places[window][last][1])
        while asked.context[start].isspace():
            start += 1
        while asked.context[end - 1].isspace():
            end -= 1
        said = {"answer": asked.context[start:end], "score": math.exp(best - total), "start": start, "end": end}
    return {**said, **({"null_odds": none - best} if may_be_none else {})}


def n_best(windows: Windows, asked: Any, may_be_none: bool, most: int = 5) -> dict[str, float]:
    """The likeliest answers with different texts, and their probabilities."""
    found, none = spans(windows), min(float(of[0].sum()) for of in windows)
    total = logsumexp([score for score, *_ in found] + ([none] if may_be_none else []))
    texts: dict[str, float] = {}
    for score, window, first, last in found:
        text = asked.context[int(asked.places[window][first][0]) : int(asked.places[window][last][1])].strip()
        texts[text] = max(texts.get(text, 0.0), math.exp(score - total))
    texts |= {"": math.exp(none - total)} if may_be_none else {}
    return dict(sorted(texts.items(), key=lambda item: -item[1])[:most])


def loss(windows: Windows, y: np.ndarray) -> float:
    """Of a question, with its targets `[K, 2]`."""
    of = [-log_softmax(w, axis=0)[goal, [0, 1]].mean() for w, goal in zip(windows, y, strict=False)]
    return float(np.mean(of))


def divergence(student: Windows, teacher: Windows) -> float:
    def kl(one: np.ndarray, other: np.ndarray) -> float:
        p, q = log_softmax(one, axis=0), log_softmax(other, axis=0)
        return float((np.exp(q) * (q - p)).sum())

    return float(np.mean([kl(one, other) for one, other in zip(student, teacher, strict=True)]))


def agreement(student: Windows, teacher: Windows) -> float:
    same = [one.argmax(0) == other.argmax(0) for one, other in zip(student, teacher, strict=True)]
    return float(np.mean(same))


def measure(questions: Sequence[Windows], y: np.ndarray, asked: Sequence[Any], may_be_none: bool) -> dict[str, float]:
    """The loss and all metrics."""
    said = [answer(w, a, may_be_none)["answer"] for w, a in zip(questions, asked, strict=True)]
    scores = [by_script(s, a.answers, 2 if may_be_none else 1) for s, a in zip(said, asked, strict=True)]
    exact, f1 = np.array(scores).T
    has = np.array([any(normalize_answer(one) for one in a.answers) for a in asked])

    def mean(values: np.ndarray) -> float:
        return float(values.mean()) if len(values) else math.nan

    return {
        "loss": mean(np.array([loss(w, goals) for w, goals in zip(questions, y, strict=True)])),
        "f1": mean(f1),
        "exact_match": mean(exact),
        "has_answer_f1": mean(f1[has]),
        "has_answer_exact_match": mean(exact[has]),
        "no_answer_accuracy": mean(exact[~has]),
    }
