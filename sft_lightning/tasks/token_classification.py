"""Token classification: predicts one tag for each word of a text (named entities, parts of speech, chunks)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from sft_lightning.anchors import kl
from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import SHARE
from sft_lightning.core.structures import Batch, Output, TaskInfo
from sft_lightning.tasks.base import RowTask, Said, TaskMetric, at_least_single, by_sample, draw_classes

OUTSIDE = "O"
OF_ENTITIES = ("entity_f1", "entity_precision", "entity_recall", "token_accuracy")
Entity = tuple[int, int, str]
"""(first word, word after the last, type)"""


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities of one sentence in the scheme B-type, I-type, O, as conlleval reads it.

    An entity ends before O, before B-, and before I- of another type. An I- that continues no entity begins one.
    """
    start, kind = 0, ""
    for at, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, here = tag.partition("-")
        continues = prefix == "I" and bool(kind) and here == kind
        if kind and not continues:
            yield start, at, kind
        if not continues:
            start, kind = at, "" if tag == OUTSIDE else here


class EntityScore(Metric):
    """Precision, recall or F1 in [0, 1] over entities, which are right if extent and type are; 0 if it is undefined.

    It is defined as in the CoNLL-2000 script conlleval and seqeval's default: micro-average over all sentences.

    Args:
        tags: Names of the classes.
        score: 'precision', 'recall' or 'f1'.
    """

    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, tags: Sequence[str], score: str) -> None:
        super().__init__()
        self.tags, self.score = list(tags), score
        self.add_state("counts", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")  # right, predicted, true

    def update(self, said: Sequence[Sequence[int]], true: Sequence[Sequence[int]]) -> None:
        """Adds sentences, each as the class numbers of its words."""
        for one, other in zip(said, true, strict=True):
            mine, theirs = (set(entities([self.tags[i] for i in numbers])) for numbers in (one, other))
            self.counts += torch.tensor([len(mine & theirs), len(mine), len(theirs)], device=self.counts.device)

    def compute(self) -> Tensor:
        right, said, true = self.counts.double()
        out_of = {"precision": said, "recall": true, "f1": (said + true) / 2}[self.score]
        return torch.where(out_of > 0, right / out_of.clamp(min=0.5), 0.0)


def entity_score(score: str) -> TaskMetric:
    """A metric on entities, which needs tags in the scheme of `entities`."""

    def make(info: TaskInfo) -> EntityScore:
        if not has_scheme(info.labels):
            raise UserError(
                "metrics",
                f"entity_{score} needs tags that begin with B- and I-, but the first tags are {info.labels[:3]}",
                "use token_accuracy",
            )
        return EntityScore(info.labels, score)

    return TaskMetric("max", SHARE, make)


def has_scheme(tags: Sequence[str]) -> bool:
    """Whether tags are O, B-type and I-type."""
    return any(t != OUTSIDE for t in tags) and all(t == OUTSIDE or t[:2] in ("B-", "I-") for t in tags)


class TokenClassification(RowTask):
    """`logits[N, C]` of the N words of a batch, sentence after sentence; `y[N]` int64 in [0, C).

    `select[B, T]` marks the first piece of each word. All metrics except those on entities weigh words equally.
    """

    name = "token_classification"
    one_item_per_sample = False
    lists = {"tags": "tag", "probabilities": "probability"}
    smooths_labels = True
    metrics = {
        "entity_f1": entity_score("f1"),
        "entity_precision": entity_score("precision"),
        "entity_recall": entity_score("recall"),
        "token_accuracy": TaskMetric("max", SHARE, lambda info: MulticlassAccuracy(info.num_outputs, average="micro")),
        "f1_macro": TaskMetric("max", SHARE, lambda info: MulticlassF1Score(info.num_outputs, average="macro")),
    }
    default_metrics = ("token_accuracy", "f1_macro")
    loss_unit = "nats"

    def __init__(self, info: TaskInfo, label_smoothing: float = 0.0) -> None:
        super().__init__(info, label_smoothing)
        self.tags = info.labels or [str(i) for i in range(info.num_outputs)]

    @property
    def metric_names(self) -> list[str]:
        """The metrics that the data names, or else those on entities if the tags have a scheme, otherwise those on words."""
        return list(self.info.metrics or (OF_ENTITIES if has_scheme(self.info.labels) else self.default_metrics))

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(at_least_single(logits), y, reduction="sum", label_smoothing=self.label_smoothing)

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def said(self, output: Output, batch: Batch) -> list[Said]:
        """The tags of each sentence's words; its score is the share of words whose tag is right."""
        tags = [[self.tags[i] for i in of] for of in by_sample(self.predict(output.logits).tolist(), batch)]
        if "y" not in batch:
            return [Said(of, form="tags") for of in tags]
        right = [[self.tags[i] for i in of] for of in by_sample(batch["y"].tolist(), batch)]
        return [
            Said(a, b, sum(x == y for x, y in zip(a, b, strict=True)) / max(1, len(b)), "tags")
            for a, b in zip(tags, right, strict=True)
        ]

    def update(self, metric: Metric, output: Output, batch: Batch) -> None:
        if not isinstance(metric, EntityScore):
            super().update(metric, output, batch)
            return
        said, true = self.predict(output.logits).tolist(), batch["y"].tolist()
        metric.update(by_sample(said, batch), by_sample(true, batch))

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        return (one.argmax(-1) == other.argmax(-1)).double()

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return kl(student, teacher, temperature)

    def draw(self, logits: Tensor, random: np.random.Generator) -> Tensor:
        return draw_classes(logits, random)

    def decode_rows(self, logits: Tensor) -> list[dict[str, Any]]:
        """The most likely tag of each word, and its probability."""
        probability, tag = at_least_single(logits).softmax(-1).max(-1)
        pairs = zip(tag.tolist(), probability.tolist(), strict=True)
        return [{"tag": self.tags[number], "probability": round(p, 6)} for number, p in pairs]
