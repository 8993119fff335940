"""Extractive question answering: finds the span of a text that answers a question, or says that it has no answer."""

from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.structures import Batch, Items, Output, TaskInfo
from sft_lightning.tasks.answer_scores import answer_metric, may_be_none, scores
from sft_lightning.tasks.base import RowTask, Said, at_least_single, draw_classes

LONGEST = 30  # tokens of an answer, as in BERT's and transformers' scripts
NEVER = float("-inf")
N_BEST, LOOKED_AT = 5, 100
"""Answers that are listed, and spans among which they are found: several may have one text"""


class Asked(NamedTuple):
    """What is known of a question on the host."""

    context: str
    """The user's own text"""
    places: tuple[np.ndarray, ...]
    """For each window, `[tokens, 2]`: first character in `context`, and the one after the last, of each token that may answer.
    The first token stands for no answer."""
    answers: tuple[str, ...] = ()
    """The right answers; empty if there is none, or if they are unknown"""


class Spans(NamedTuple):
    """The best answer to each of N questions."""

    where: Tensor
    """`[N, 3]` int64: window, first token and last token, counted among those that may answer"""
    score: Tensor
    """`[N]`: its start's and end's score, summed"""
    none: Tensor
    """`[N]`: the same for no answer, the lowest over windows"""
    total: Tensor
    """`[N]`: log Σ exp over the scores of all spans of all windows"""


def best_spans(scores: Tensor, longest: int = LONGEST) -> Spans:
    """The best span of `scores[N, K, 2, T]` over all K windows.

    A span begins at or before the token where it ends, has at most `longest` tokens, and lies in one window. A token
    may answer in each window that has it: as in transformers' script, windows with more context around it have no preference.
    """
    start, end = scores.unbind(2)
    spans = all_spans(scores, longest)
    score, at = spans.flatten(1).max(-1)
    where = place_of(at, spans)
    none = start[..., 0] + end[..., 0]
    return Spans(where, score, none.masked_fill(none == NEVER, -NEVER).amin(-1), spans.flatten(1).logsumexp(-1))


def all_spans(scores: Tensor, longest: int) -> Tensor:
    """`[N, K, T - 1, longest]`: the score of each span by window, first token and length."""
    start, end = scores.unbind(2)
    return start[..., 1:, None] + F.pad(end[..., 1:], (0, longest - 1), value=NEVER).unfold(-1, longest, 1)


def place_of(at: Tensor, spans: Tensor) -> Tensor:
    """`[…, 3]`: window, first and last token of spans, by their numbers `at` among all of a question."""
    tokens, longest = spans.shape[2:]
    first = at // longest % tokens + 1
    return torch.stack([at // (longest * tokens), first, first + at % longest], -1)


class ExtractiveQA(RowTask):
    """Each head row has two scores of a token, to be the answer's start and its end. An item is a question.

    A question's text comes in K windows. `select[B, K, T]` marks the tokens that may answer: each window's first, which
    stands for no answer, and those of the text. In each window, softmax over these tokens gives the probability of start
    and end. `y[N, K, 2]` int64 has start and end in each window, counted among the tokens that may answer: 0 where the
    window does not hold the answer, -1 for windows that the question lacks. The loss is the mean over windows
    of (CE of start + CE of end)/2, as in transformers' script for batches of windows.

    `rows` arranges scores as `[N, K, 2, T]`, -∞ where there is no token.
    """

    name = "extractive_qa"
    metrics = {
        "f1": answer_metric(f1=True),
        "exact_match": answer_metric(f1=False),
        "has_answer_f1": answer_metric(f1=True, answered=True),
        "has_answer_exact_match": answer_metric(f1=False, answered=True),
        "no_answer_accuracy": answer_metric(f1=False, answered=False),
    }
    default_metrics = ("f1", "exact_match")
    loss_unit = "nats"

    def __init__(self, info: TaskInfo, label_smoothing: float = 0.0) -> None:
        super().__init__(info, label_smoothing)
        self.may_be_none = may_be_none(info)

    @property
    def metric_names(self) -> list[str]:
        """The metrics that the data names, or else F1 and exact match, and all if answers may be none."""
        return list(self.info.metrics or (self.metrics if self.may_be_none else self.default_metrics))

    def rows(self, logits: Tensor, batch: Batch) -> Tensor:
        """`[N, K, 2, T]` scores of N questions, from `logits[R, 2]` of the selected tokens; see the class."""
        counts = batch["select"].sum(-1)
        places = torch.arange(max(2, int(counts.max())), device=logits.device)
        scores = logits.new_full((*counts.shape, len(places), 2), NEVER)
        scores[places < counts[..., None]] = logits
        return scores[counts.any(-1)].transpose(-1, -2)

    def row_loss(self, scores: Tensor, y: Tensor) -> Tensor:
        y = y[:, : scores.shape[1]]
        there = y >= 0
        likely = log_softmax(scores).gather(-1, y.clamp(min=0)[..., None])[..., 0].masked_fill(~there, 0.0)
        return -(likely.flatten(1).sum(-1) / there.flatten(1).sum(-1)).sum()

    def predict(self, scores: Tensor) -> Tensor:
        """Window, first and last token of each question's best span: `[N, 3]`."""
        return best_spans(scores).where

    def update(self, metric: Metric, output: Output, batch: Batch) -> None:
        asked = asked_of(batch)
        said = self.best(output, batch)
        metric.update([row["answer"] for row in said], [question.answers for question in asked])

    def decode(self, output: Output, batch: Batch) -> list[dict[str, Any]]:
        """The best answer to each question, as `best`, and `n_best`: up to 5 answers with different texts, the likeliest first,
        over all windows, each with its `score`, `start` and `end`. None, if it may be said, is among them as an empty text.
        """
        scores = at_least_single(self.rows(output.logits, batch))
        best, spans = best_spans(scores), all_spans(scores, LONGEST)
        total = torch.logaddexp(best.total, best.none) if self.may_be_none else best.total
        found, at = spans.flatten(1).topk(min(LOOKED_AT, spans[:1].numel()))
        chances = (found - total[:, None]).exp().tolist()
        rows = self.best(output, batch)
        for number, question in enumerate(asked_of(batch)):
            answers: dict[str | None, dict[str, Any]] = {}
            for (window, first, last), chance in zip(
                place_of(at[number], spans).tolist(), chances[number], strict=True
            ):
                if chance > 0:
                    places = question.places[window]
                    text, start, end = cut(question.context, int(places[first][0]), int(places[last][1]))
                    answers.setdefault(text, {"answer": text, "score": round(chance, 6), "start": start, "end": end})
            if self.may_be_none:
                chance = float((best.none[number] - total[number]).exp())
                answers[None] = {"answer": "", "score": round(chance, 6), "start": None, "end": None}
            rows[number]["n_best"] = sorted(answers.values(), key=lambda answer: -answer["score"])[:N_BEST]
        return rows

    def best(self, output: Output, batch: Batch) -> list[dict[str, Any]]:
        """The best answer to each question, cut from its context.

        `answer`, its text; `start` and `end`, its characters in the context; `score`, its probability among all answers that
        are possible. If the answer may be none, also `null_odds`, the score of none minus that of the best answer, as in
        the official script's file: none is said if it is above 0, as an empty text without characters.
        """
        scores = at_least_single(self.rows(output.logits, batch))
        spans, said = best_spans(scores), []
        total = torch.logaddexp(spans.total, spans.none) if self.may_be_none else spans.total
        odds = spans.none - spans.score
        chances = ((spans.score - total).exp(), (spans.none - total).exp())
        values = zip(asked_of(batch), spans.where.tolist(), odds.tolist(), *(c.tolist() for c in chances), strict=True)
        for question, (window, first, last), null_odds, chance, of_none in values:
            places = question.places[window]
            text, start, end = cut(question.context, int(places[first][0]), int(places[last][1]))
            row: dict[str, Any] = {"answer": text, "score": round(chance, 6), "start": start, "end": end}
            if self.may_be_none and null_odds > 0:
                row = {"answer": "", "score": round(of_none, 6), "start": None, "end": None}
            said.append({**row, **({"null_odds": round(null_odds, 6)} if self.may_be_none else {})})
        return said

    def said(self, output: Output, batch: Batch) -> list[Said] | None:
        """The best answers, with their F1; None without the contexts from which they are cut."""
        if "beside" not in batch:
            return None
        said = []
        for row, gold in zip(self.best(output, batch), (q.answers for q in asked_of(batch)), strict=True):
            found = Said(row["answer"], form="answer", start=row["start"])
            if gold or self.may_be_none:
                score = scores(row["answer"], gold, self.may_be_none)[1]
                found = found._replace(right=(gold or ("",))[0], score=score)
            said.append(found)
        return said

    def decode_rows(self, scores: Tensor) -> list[dict[str, Any]]:
        """Window, first and last token of each question's best span, where its text is unknown."""
        return [
            {"window": window, "first": first, "last": last} for window, first, last in self.predict(scores).tolist()
        ]

    def items(self, output: Output, batch: Batch) -> Items:
        """A question's features are those of its tokens, all windows together; their weights sum to 1."""
        tokens = batch["select"].flatten(1).sum(-1)
        weights = (
            1 / tokens.clamp(min=1).to(torch.promote_types(output.features.dtype, torch.float32))
        ).repeat_interleave(tokens)
        return super().items(output, batch)._replace(weights=weights)

    def vectors(self, scores: Tensor) -> Tensor:
        """All scores of a question as one vector, divided by the root of the number of windows: its square is their mean."""
        windows = flat(is_there(scores)).sum(-1, keepdim=True) / 2
        return flat(scores.masked_fill(scores == NEVER, 0.0)) / windows.clamp(min=1).sqrt()

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        """The share of a question's windows' most likely starts and ends on which both agree."""
        return over_windows((one.argmax(-1) == other.argmax(-1)).double(), one) / 2

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        """KL of the start's distribution plus KL of the end's, the mean over windows."""
        mine, theirs = (log_softmax(scores, temperature) for scores in (student, teacher.detach()))
        return over_windows(F.kl_div(mine, theirs, reduction="none", log_target=True).sum(-1), student) * temperature**2

    def draw(self, scores: Tensor, random: np.random.Generator) -> Tensor:
        drawn = draw_classes(log_softmax(scores).flatten(0, -2), random).reshape(scores.shape[:-1])
        return drawn.masked_fill(~is_there(scores), -1)


def asked_of(batch: Batch) -> list[Asked]:
    """What is known of the questions of a batch, without fillers."""
    real = batch["select"].flatten(1).any(-1).tolist()
    return [question for question, here in zip(batch["beside"], real, strict=True) if here]


def cut(text: str, start: int, end: int) -> tuple[str, int, int]:
    """The text between two characters without white space at its ends, and its characters."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return part.strip(), start, start + len(part.strip())


# ---- scores [N, K, 2, T], or of one token each, [N, 2] ----


def is_there(scores: Tensor) -> Tensor:
    """Whether there is a token to choose: bool, without the last dimension."""
    return (scores != NEVER).any(-1)


def log_softmax(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probabilities over tokens: finite, and far below all others where there is no token."""
    scores = at_least_single(scores) / temperature
    return F.log_softmax(scores.masked_fill(scores == NEVER, torch.finfo(scores.dtype).min / 4), dim=-1)


def over_windows(each: Tensor, scores: Tensor) -> Tensor:
    """The value for start plus that for end, the mean over a question's windows: `[N]`."""
    there = is_there(scores)
    return flat(each.masked_fill(~there, 0.0)).sum(-1) / (flat(there).sum(-1) / 2).clamp(min=0.5)


def flat(values: Tensor) -> Tensor:
    """All values of each question, `[N, …]` as `[N, C]`; N may be 0."""
    return values.reshape(len(values), prod(values.shape[1:]))
