"""Token classification: predicts one tag for each word of a text (named entities, parts of speech, chunks)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from sft_lightning.anchors import kl
from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.core.structures import Batch, Output, TaskInfo
from sft_lightning.tasks.base import RowTask, Said, TaskMetric, at_least_single, by_sample, draw_classes
from sft_lightning.tasks.entity_groups import ENTITY_GROUPS, OldAndNewEntities
from sft_lightning.tasks.entity_scores import NUMBER, OF_TYPE, SCORES, EntityScores
from sft_lightning.tasks.partial import covered_rows, old_with_outside, partial_cross_entropy
from sft_lightning.tasks.schemes import OUTSIDE, scheme_of

OF_ENTITIES = ("entity_f1", "entity_precision", "entity_recall", "token_accuracy")


def entity_score(name: str) -> Callable[[TaskInfo], EntityScores]:
    """Makes a metric on entities, which needs tags in a scheme."""

    def make(info: TaskInfo) -> EntityScores:
        if not scheme_of(info.labels):
            raise UserError(
                "metrics",
                f"{name} needs tags in a scheme for entities, such as B-type, I-type and O, but the first tags are "
                f"{info.labels[:3]}",
                "use token_accuracy",
            )
        return EntityScores(info, [name])

    return make


class TokenClassification(RowTask):
    """`logits[N, C]` of the N words of a batch, sentence after sentence; `y[N]` int64 in [0, C).

    `select[B, T]` marks the first piece of each word. All metrics except those on entities weigh words equally. A test also
    measures entities in strict mode and by type: `entity_f1/TYPE`, with `entity_n/TYPE` true entities.

    If a sentence's annotation covers some types alone (`covered`), O means none of these. Then predictions of other types
    count as O in all metrics, and `covered_loss` compares the types that are covered with the sum of O and all others.
    """

    name = "token_classification"
    one_item_per_sample = False
    lists = {"tags": "tag", "probabilities": "probability"}
    smooths_labels = True
    metrics = {
        **{name: TaskMetric("max", SHARE, entity_score(name)) for name in SCORES},
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
        names = self.info.metrics or (OF_ENTITIES if scheme_of(self.info.labels) else self.default_metrics)
        return [*names, *(ENTITY_GROUPS if self.info.known else ())]

    @classmethod
    def metric_info(cls, name: str) -> MetricInfo | None:
        """Adds the F1 and the number of entities of each type, and the scores of old and of new types."""
        if name in ENTITY_GROUPS:
            return ENTITY_GROUPS[name]
        if name.startswith(NUMBER):
            return MetricInfo(name, None, "entities")
        return MetricInfo(name, "max", SHARE) if name.startswith(OF_TYPE) else super().metric_info(name)

    def make_metrics(self, final: bool = False) -> dict[str, Metric]:
        """One meter for all scores of entities, which counts them once, and one for each other metric."""
        meters = {name: self._metric(name).make(self.info) for name in self.metric_names if name not in ENTITY_GROUPS}
        of_entities = [name for name, meter in meters.items() if isinstance(meter, EntityScores)]
        if not of_entities and not self.info.known:
            return meters
        names = list(SCORES) if final else of_entities
        others = {name: meter for name, meter in meters.items() if name not in of_entities}
        kind = OldAndNewEntities if self.info.known else EntityScores
        return {"entities": kind(self.info, list(dict.fromkeys([*of_entities, *names])), final), **others}

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(at_least_single(logits), y, reduction="sum", label_smoothing=self.label_smoothing)

    @property
    def outside(self) -> int:
        """Number of the tag O."""
        return self.tags.index(OUTSIDE)

    def covered_loss(self, logits: Tensor, y: Tensor, covered: Tensor) -> Tensor:
        return partial_cross_entropy(at_least_single(logits), y, covered, self.outside, self.label_smoothing)

    def of_old_labels(self, logits: Tensor, known: int) -> Tensor:
        """The old tags; O stands for the new ones too, since the pretrained network says it of their words."""
        return old_with_outside(at_least_single(logits), known, self.outside)

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
        all_said, covered = self.predict(output.logits), covered_rows(batch)
        said = all_said if covered is None else self.covered_said(all_said, covered)
        if not isinstance(metric, EntityScores):
            metric.update(said, batch["y"])
            return
        lists = [by_sample(tags.tolist(), batch) for tags in (said, batch["y"])]
        if covered is not None and isinstance(metric, OldAndNewEntities):
            lists.append(by_sample(all_said.tolist(), batch))
        metric.update(*lists)

    def covered_said(self, said: Tensor, covered: Tensor) -> Tensor:
        """Predicted tags `[N]`, with O for those that the row's annotation does not cover."""
        known = covered.gather(1, said[:, None])[:, 0]
        return torch.where(known, said, self.outside)

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
