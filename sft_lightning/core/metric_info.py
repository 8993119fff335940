"""MetricInfo, the facts about a metric (name, direction, unit), and the names that metrics have on each split."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sft_lightning.core.errors import UserError

SHARE = "share"
"""Unit of a share between 0 and 1, such as an accuracy. Texts state differences of it in points (hundredths)."""
DIRECTIONS = ("max", "min", None)


@dataclass(frozen=True)
class MetricInfo:
    """The facts about one metric. The code that measures it declares them once; `run.json` hands them to every reader.

    Raises UserError if `better` is not 'max', 'min' or None.
    """

    name: str
    """The logged name (`val/accuracy`), or the task's name for it (`accuracy`)."""
    better: str | None
    """'max' or 'min'; None if neither is better, as for a count."""
    unit: str = ""
    """`share`, `nats`, `s`, `samples` and the like; empty for a plain number."""

    def __post_init__(self) -> None:
        if self.better not in DIRECTIONS:
            raise UserError(f"metric {self.name}", f"better must be 'max', 'min' or None, got {self.better!r}")

    @property
    def share(self) -> bool:
        """Whether the unit is a share between 0 and 1."""
        return self.unit == SHARE

    @property
    def sign(self) -> int:
        """1 if more is better, −1 if less is better, 0 if neither."""
        return {"max": 1, "min": -1}.get(self.better or "", 0)

    def named(self, name: str) -> "MetricInfo":
        """The same facts under another name."""
        return MetricInfo(name, self.better, self.unit)

    def to_dict(self) -> dict[str, Any]:
        """Returns `{better, unit}`, which `run.json` stores under the name."""
        return {"better": self.better, "unit": self.unit}

    @staticmethod
    def of(name: str, held: Any) -> "MetricInfo | None":
        """Makes the info from the entry of `run.json`; None if the entry is damaged."""
        if not isinstance(held, Mapping) or held.get("better", "") not in DIRECTIONS:
            return None
        return MetricInfo(name, held["better"], str(held.get("unit", "")))


def agreed(name: str, said: Iterable[MetricInfo]) -> MetricInfo | None:
    """Combines what several sources say of one metric; None if there are none or their directions differ.

    If only the units differ, the unit is left empty.
    """
    found = list(said)
    directions, units = {i.better for i in found}, {i.unit for i in found}
    if len(directions) != 1:
        return None
    return MetricInfo(name, directions.pop(), units.pop() if len(units) == 1 else "")


COUNTED = {
    "val": ("val", "retention", "drift", "generated", "retention_generated", "relearn"),
    "test": ("test", "test/retention", "test/drift", "test/generated", "test/retention_generated", "test/relearn"),
}
"""Columns of `n` for each split: samples of the target, of the source task, of drift, those of target and source for which
texts are generated, and the source's training samples on which a fresh head is solved"""
OF_TEXTS = (
    *("bleu", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact_match"),
    *("wer", "cer", "wer_plain", "cer_plain"),
)
"""Scores of texts, which are generated for some samples alone"""
GAUGES = {
    info.name: info
    for info in (
        MetricInfo("retention/agreement", "max", SHARE),
        MetricInfo("retention/lost_above_chance", "min", SHARE),
        MetricInfo("retention/accuracy_se", None, SHARE),
        MetricInfo("drift/kl", "min", "nats"),
        MetricInfo("drift/kl_reverse", "min", "nats"),
        MetricInfo("drift/weights_l2", "min"),
        MetricInfo("drift/weights_relative", "min"),
        MetricInfo("drift/buffers_relative", "min"),
        MetricInfo("drift/features_cka", "max"),
        MetricInfo("drift/features_cka_debiased", "max"),
        MetricInfo("drift/source_mse", "min", "variances"),
        MetricInfo("drift/source_correlation", "max"),
        MetricInfo("train/loss", "min"),
        MetricInfo("train/loss_task", "min"),
        MetricInfo("train/loss_anchor", "min"),
        MetricInfo("train/anchor_ratio", None),
        MetricInfo("train/lr", None),
        MetricInfo("train/items", None, "items"),
        MetricInfo("train/trainable", None, "parameters"),
        *(MetricInfo(f"n/{column}", None, "samples") for columns in COUNTED.values() for column in columns),
        MetricInfo("times/fit_s", "min", "s"),
        MetricInfo("times/retention_s", "min", "s"),
    )
}
"""The framework's own metrics, the same for every task. Each task declares its own."""


def gauge(name: str) -> MetricInfo | None:
    """Returns the facts about a metric of the framework; a variant's own loss term (`train/loss_…`) counts as a loss."""
    if name.startswith("train/loss_") and name not in GAUGES:
        return GAUGES["train/loss"].named(name)
    return GAUGES.get(name)


def forgetting(source: MetricInfo) -> MetricInfo:
    """Returns the facts about `retention/forgetting`, the drop of the source task's metric, in that metric's unit."""
    return MetricInfo("retention/forgetting", "min", "difference of shares" if source.share else source.unit)


def on_test(name: str) -> str:
    """Returns a validation metric's name on the test split: `val/x` → `test/x`, `drift/x` → `test/drift/x`."""
    if name.startswith("test/"):
        return name
    return "test/" + name.removeprefix("val/")


def on_validation(name: str) -> str:
    """Returns a test metric's name on the validation split: `test/retention/x` → `retention/x`, `test/x` → `val/x`."""
    if not name.startswith("test/"):
        return name
    rest = name.removeprefix("test/")
    return rest if rest.startswith(("retention/", "drift/")) else f"val/{rest}"


def counted(metric: str, numbers: Mapping[str, Any]) -> str:
    """The name in a record's `n` of the samples that a logged metric was measured on.

    Args:
        metric: Its name with its stage, such as `val/wer`.
        numbers: The record's `n`. Scores of generated texts have a number of their own, if texts were generated for some
            samples alone.
    """
    stage, _, name = metric.rpartition("/")
    test = "test/" if stage == "test" or stage.startswith("test/") else ""
    of = stage.removeprefix(test) if stage != "test" else "val"
    if (of, name) == ("retention", "agreement"):
        of = "drift"  # measured on the rows of the gauges
    texts = f"{test}{'generated' if of == 'val' else f'{of}_generated'}"
    if name.removeprefix("relearn_") in OF_TEXTS and texts in numbers:
        return texts
    return (test + of) if of != "val" else "test" if test else "val"


def is_source_metric(name: str) -> bool:
    """Whether a metric is one of the source task's own, such as `retention/accuracy`."""
    others = ("/loss", "/agreement", "/forgetting", "/lost_above_chance", "/accuracy_se")
    return name.startswith("retention/") and not name.endswith(others) and "/relearn_" not in name
