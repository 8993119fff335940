"""Multiple choice: one of the choices of each question is right, and a network scores each choice by itself."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy

from sft_lightning.anchors import kl
from sft_lightning.core.metric_info import SHARE
from sft_lightning.core.structures import Batch, Items, Output
from sft_lightning.tasks.base import RowTask, Said, TaskMetric, at_least_single, draw_classes

ABSENT = -1e30
"""Score of a choice that a question lacks: its probability is 0, and it is equal in student and teacher"""


class MultipleChoice(RowTask):
    """One score for each choice, and a softmax over the choices of a question, of which `y[N]` int64 is the right one.

    A head gives `[R, 1]` for the R choices that `select[B, K]` marks, question after question. `rows` arranges them as
    `[N, K]` for N questions, with the score ABSENT for choices that a question lacks. Every question counts once in the loss
    and in the accuracy, whatever its number of choices. A distance of features is the mean over a question's choices;
    distances of source scores compare one distribution over the choices.
    """

    name = "multiple_choice"
    metrics = {"accuracy": TaskMetric("max", SHARE, lambda _: BinaryAccuracy(validate_args=False))}
    default_metrics = ("accuracy",)
    loss_unit = "nats"

    def rows(self, logits: Tensor, batch: Batch) -> Tensor:
        """`[N, K]` in single precision at least; fillers have no row."""
        select = batch["select"]
        scores = at_least_single(logits).squeeze(-1)
        every = scores.new_full(select.shape, ABSENT)
        every = every.masked_scatter(select, scores)
        return every[select.any(-1)]

    def items(self, output: Output, batch: Batch) -> Items:
        """One item for each question; its features have one row for each choice, all of equal weight."""
        number = batch["select"].sum(1)
        weights = (1.0 / number.clamp(min=1)).repeat_interleave(number)
        return super().items(output, batch)._replace(weights=weights.to(output.logits.dtype))

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(at_least_single(logits), y, reduction="sum")

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def update_rows(self, metric: Metric, logits: Tensor, y: Tensor) -> None:
        metric.update((self.predict(logits) == y).long(), torch.ones_like(y))  # the number of choices may vary

    def said(self, output: Output, batch: Batch) -> list[Said]:
        """The place of the chosen choice, from 0."""
        chosen, y = self.predict(self.rows(output.logits, batch)).tolist(), batch.get("y")
        if y is None:
            return [Said(str(c), form="choice") for c in chosen]
        return [Said(str(c), str(t), float(c == t), "choice") for c, t in zip(chosen, y.tolist(), strict=True)]

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        return (one.argmax(-1) == other.argmax(-1)).double()

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return kl(student, teacher, temperature)

    def draw(self, logits: Tensor, random: np.random.Generator) -> Tensor:
        return draw_classes(logits, random)

    def decode_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """The chosen choice by its place, from 0, and the probabilities of the question's choices in their order."""
        rows = zip(at_least_single(logits).softmax(-1).tolist(), (logits > ABSENT / 2).sum(-1).tolist(), strict=True)
        there = [p[:count] for p, count in rows]
        return [{"choice": int(np.argmax(p)), "probabilities": [round(v, 6) for v in p]} for p in there]
