"""Language modelling: predicts the next token of a text."""

from math import log

from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.tasks.base import TaskMetric
from sft_lightning.tasks.metrics import MeanLoss
from sft_lightning.tasks.next_token import NextToken


class BitsPerByte(MeanLoss):
    """The loss summed over all predicted tokens, in bits, over the UTF-8 bytes of their text.

    Unlike the loss per token, it can be compared between tokenizers. An end-of-text token adds bits, but no bytes.
    """

    def compute(self) -> Tensor:
        return super().compute() / log(2)


class CausalLM(NextToken):
    """`logits[N, V]` at the N positions whose next token `y[N]` is supervised.

    `bits_per_byte` weighs bytes equally, and needs data with `bytes` (see `Batch`), such as PlainText.
    """

    name = "causal_lm"
    metrics = {**NextToken.metrics, "bits_per_byte": TaskMetric("min", "bits", lambda _: BitsPerByte())}

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
