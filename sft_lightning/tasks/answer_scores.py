"""Scores of answers that are cut from a text, as SQuAD's official scripts define them, by torchmetrics."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from sft_lightning.core.metric_info import SHARE
from sft_lightning.core.structures import TaskInfo
from sft_lightning.tasks.base import TaskMetric
from sft_lightning.tasks.metrics import MeanLoss


@lru_cache(1 << 16)  # each of a task's metrics asks the same
def compared(said: str, right: tuple[str, ...]) -> tuple[float, float]:
    """(exact match, F1), each in [0, 1] and the best over the right answers, without case, punctuation and articles."""
    from torchmetrics.functional.text import squad

    found = squad({"prediction_text": said, "id": ""}, {"answers": {"text": list(right)}, "id": ""})
    return float(found["exact_match"]) / 100, float(found["f1"]) / 100


def is_nothing(text: str) -> bool:
    """Whether nothing is left of a text without punctuation and articles."""
    return compared(text, ("",))[0] == 1


def scores(said: str, right: Sequence[str], may_be_none: bool) -> tuple[float, float]:
    """(exact match, F1) of one answer, each in [0, 1], as the official scripts have them.

    Args:
        said: The answer; empty for none.
        right: The right answers; empty if the question has none.
        may_be_none: Whether to score as SQuAD 2 does, where the right answer may be none: right answers of which nothing
            is left do not count, and without any, none is right. SQuAD 1 gives F1 = 0 if nothing is left of the answer.
    """
    if may_be_none:
        return compared(said, tuple(text for text in right if not is_nothing(text)) or ("",))
    exact, f1 = compared(said, tuple(right))
    return exact, 0.0 if is_nothing(said) else f1


class AnswerScore(MeanLoss):
    """Mean of exact match or F1 over questions, in [0, 1]; NaN if there is no question of the kind.

    Args:
        f1: Whether to take F1; otherwise exact match.
        may_be_none: Whether the answer may be none; see `scores`.
        answered: Only questions that have an answer (True), or have none (False); None for all.
    """

    higher_is_better = True

    def __init__(self, f1: bool, may_be_none: bool, answered: bool | None = None) -> None:
        super().__init__()
        self.f1, self.may_be_none, self.answered = f1, may_be_none, answered

    def update(self, said: Sequence[str], right: Sequence[Sequence[str]]) -> None:  # type: ignore[override]
        """Adds questions: for each the answer that was given, and the right ones."""
        for one, gold in zip(said, right, strict=True):
            if self.answered is None or self.answered == any(not is_nothing(text) for text in gold):
                self.total += scores(one, gold, self.may_be_none)[self.f1]
                self.items += 1

    def compute(self) -> Tensor:
        return super().compute() if self.items or self.answered is None else torch.full_like(self.total, float("nan"))


OUTPUTS = ["start", "end"]
OUTPUTS_OR_NONE = ["start or none", "end or none"]
"""Names of the outputs if the answer may be none"""


def may_be_none(info: TaskInfo) -> bool:
    """Whether the answer may be none, as in SQuAD 2. The names of the outputs say so, since exports keep them."""
    return info.labels == OUTPUTS_OR_NONE


def answer_metric(f1: bool, answered: bool | None = None) -> TaskMetric:
    """A metric of answers, of those questions that have an answer (True), or have none (False), or of all."""
    return TaskMetric("max", SHARE, lambda info: AnswerScore(f1, may_be_none(info) or answered is False, answered))
