"""Language modelling: predicts the next token, with cross-entropy in nats; each supervised token is an item."""

from math import log
from typing import Any

import numpy as np
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from sft_lightning.anchors import kl
from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import SHARE
from sft_lightning.core.structures import Batch, Output
from sft_lightning.tasks.base import RowTask, TaskMetric, draw_classes
from sft_lightning.tasks.cross_entropy import summed_cross_entropy
from sft_lightning.tasks.metrics import MeanLoss


class Perplexity(MeanLoss):
    """e to the mean loss. Unlike torchmetrics' own, it is finite if a token's probability is below 1e-45."""

    def compute(self) -> Tensor:
        return super().compute().exp()


class BitsPerByte(MeanLoss):
    """The loss summed over all predicted tokens, in bits, over the UTF-8 bytes of their text.

    Unlike the loss per token, it can be compared between tokenizers. An end-of-text token adds bits, but no bytes.
    """

    def compute(self) -> Tensor:
        return super().compute() / log(2)


class CausalLM(RowTask):
    """`logits[N, V]` at the N positions whose next token `y[N]` is supervised. All metrics weigh tokens equally.

    `bits_per_byte` weighs bytes equally, and needs data with `bytes` (see `Batch`), such as PlainText.
    """

    name = "causal_lm"
    one_item_per_sample = False
    lists = {"tokens": "token", "probabilities": "probability"}
    metrics = {
        "perplexity": TaskMetric("min", "", lambda _: Perplexity()),
        "token_accuracy": TaskMetric("max", SHARE, lambda info: MulticlassAccuracy(info.num_outputs, average="micro")),
        "bits_per_byte": TaskMetric("min", "bits", lambda _: BitsPerByte()),
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
        if not isinstance(metric, BitsPerByte):
            super().update(metric, output, batch)
            return
        if "bytes" not in batch:
            raise UserError(
                "metrics",
                "bits_per_byte needs the bytes of the text behind the predicted tokens, which this data does not count",
                "use perplexity, or the data module PlainText",
            )
        metric.update(self.row_loss(output.logits, batch["y"]), int(batch["bytes"].sum()))

    def update_rows(self, metric: Metric, logits: Tensor, y: Tensor) -> None:
        if isinstance(metric, Perplexity):
            metric.update(self.row_loss(logits, y), len(y))
        else:
            super().update_rows(metric, logits, y)

    def decode_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """The most likely token of each supervised position, by number, and its probability."""
        probability, token = logits.float().softmax(-1).max(-1)
        return [
            {"token": t, "probability": round(p, 6)} for t, p in zip(token.tolist(), probability.tolist(), strict=True)
        ]
