"""What tasks share whose items are the next tokens of a text: cross-entropy in nats, and generated texts."""

from typing import Any

import numpy as np
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from sft_lightning.anchors import kl
from sft_lightning.core.metric_info import SHARE
from sft_lightning.core.structures import Batch, Output
from sft_lightning.tasks.base import RowTask, Said, TaskMetric, draw_classes
from sft_lightning.tasks.cross_entropy import summed_cross_entropy
from sft_lightning.tasks.metrics import MeanLoss
from sft_lightning.tasks.text_score import TextScore
from sft_lightning.tasks.texts import TEXT_METRICS, chrf


class Perplexity(MeanLoss):
    """e to the mean loss. Unlike torchmetrics' own, it is finite if a token's probability is below 1e-45."""

    def compute(self) -> Tensor:
        return super().compute().exp()


class NextToken(RowTask):
    """`logits[N, V]` at the N positions whose next token `y[N]` is supervised. All metrics weigh tokens equally, except those
    of generated texts.
    """

    one_item_per_sample = False
    lists = {"tokens": "token", "probabilities": "probability"}
    metrics = {
        "perplexity": TaskMetric("min", "", lambda _: Perplexity()),
        "token_accuracy": TaskMetric("max", SHARE, lambda info: MulticlassAccuracy(info.num_outputs, average="micro")),
        **TEXT_METRICS,
    }
    default_metrics = ("perplexity", "token_accuracy")
    loss_unit = "nats"

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return summed_cross_entropy(logits, y)

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        return (one.argmax(-1) == other.argmax(-1)).double()

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return kl(student, teacher, temperature)

    def draw(self, logits: Tensor, random: np.random.Generator) -> Tensor:
        return draw_classes(logits, random)

    def update(self, metric: Metric, output: Output, batch: Batch) -> None:
        """Adds a batch; to metrics of generated texts, only a batch with such texts."""
        if not isinstance(metric, TextScore):
            super().update(metric, output, batch)
        elif output.generated is not None:
            metric.update(of_real(output.generated, batch), of_real(batch["references"], batch))

    def update_rows(self, metric: Metric, logits: Tensor, y: Tensor) -> None:
        if isinstance(metric, Perplexity):
            metric.update(self.row_loss(logits, y), len(y))
        else:
            super().update_rows(metric, logits, y)

    def decode(self, output: Output, batch: Batch) -> list[dict[str, Any]]:
        """`text` if it was generated, and its `words` if they have times; then `tokens`, the most likely token of each
        supervised position, and its probability.
        """
        rows = super().decode(output, batch)
        if output.generated is None:
            return rows
        words = [{}] * len(rows) if output.words is None else [{"words": w} for w in of_real(output.words, batch)]
        return [
            {"text": text, **w, **(row if any(row.values()) else {})}  # without a target, a text is all that is said
            for text, w, row in zip(of_real(output.generated, batch), words, rows, strict=True)
        ]

    def said(self, output: Output, batch: Batch) -> list[Said] | None:
        """The generated texts, with chrF of each as its score; None if none were generated."""
        if output.generated is None:
            return None
        pairs = zip(of_real(output.generated, batch), of_real(batch["references"], batch), strict=True)
        return [Said(text, right[0], chrf([(text, right)]) / 100) for text, right in pairs]

    def decode_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """The most likely token of each supervised position, by number, and its probability."""
        probability, token = logits.float().softmax(-1).max(-1)
        return [
            {"token": t, "probability": round(p, 6)} for t, p in zip(token.tolist(), probability.tolist(), strict=True)
        ]


def of_real(values: Any, batch: Batch) -> list[Any]:
    """The values of a batch's samples, one each, without those of fillers."""
    if "real" not in batch:
        return list(values)
    return [value for value, real in zip(values, batch["real"].tolist(), strict=True) if real]
