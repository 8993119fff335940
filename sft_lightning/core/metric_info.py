"""What is known of a metric: its name, which way is better, its unit. Also how the splits name it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sft_lightning.core.errors import UserError

SHARE = "share"
"""Unit of a number between 0 and 1 that counts a part of a whole, such as an accuracy. Words say it in points: hundredths."""
DIRECTIONS = ("max", "min", None)


@dataclass(frozen=True)
class MetricInfo:
    """The facts of one metric. Whoever measures it declares them once; `run.json` carries them to all who read the run.

    Raises UserError for a direction that is neither 'max', 'min' nor None.
    """

    name: str
    """As it is logged (`val/accuracy`), or as its task calls it (`accuracy`)."""
    better: str | None
    """'max' or 'min'; None where neither is better, as for a count."""
    unit: str = ""
    """`share`, `nats`, `s`, `samples` and the like; empty for a plain number."""

    def __post_init__(self) -> None:
        if self.better not in DIRECTIONS:
            raise UserError(f"metric {self.name}", f"better must be 'max', 'min' or None, got {self.better!r}")

    @property
    def share(self) -> bool:
        """Whether it counts a part of a whole."""
        return self.unit == SHARE

    @property
    def sign(self) -> int:
        """1 where more is better, −1 where less is, 0 where neither is."""
        return {"max": 1, "min": -1}.get(self.better or "", 0)

    def named(self, name: str) -> "MetricInfo":
        """The same facts under another name."""
        return MetricInfo(name, self.better, self.unit)

    def to_dict(self) -> dict[str, Any]:
        """`{better, unit}`, as `run.json` holds it under the name."""
        return {"better": self.better, "unit": self.unit}

    @staticmethod
    def of(name: str, held: Any) -> "MetricInfo | None":
        """From what `run.json` holds under a name; None where that is damaged."""
        if not isinstance(held, Mapping) or held.get("better", "") not in DIRECTIONS:
            return None
        return MetricInfo(name, held["better"], str(held.get("unit", "")))


def agreed(name: str, said: Iterable[MetricInfo]) -> MetricInfo | None:
    """What several sources say of one metric; None where none says anything, or where they contradict each other.

    Units that differ leave the unit empty: the direction is still known.
    """
    found = list(said)
    directions, units = {i.better for i in found}, {i.unit for i in found}
    if len(directions) != 1:
        return None
    return MetricInfo(name, directions.pop(), units.pop() if len(units) == 1 else "")


GAUGES = {
    info.name: info
    for info in (
        MetricInfo("retention/agreement", "max", SHARE),
        MetricInfo("drift/kl", "min", "nats"),
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
        *(MetricInfo(f"n/{column}", None, "samples") for column in ("val", "retention", "drift")),
        *(MetricInfo(f"n/test{column}", None, "samples") for column in ("", "/retention", "/drift")),
        MetricInfo("times/fit_s", "min", "s"),
        MetricInfo("times/retention_s", "min", "s"),
    )
}
"""The framework's own metrics, whatever the task. Those of a task are declared by the task."""


def gauge(name: str) -> MetricInfo | None:
    """What is known of a metric that belongs to no task; a variant's own term of the loss (`train/loss_…`) is a loss."""
    if name.startswith("train/loss_") and name not in GAUGES:
        return GAUGES["train/loss"].named(name)
    return GAUGES.get(name)


def forgetting(source: MetricInfo) -> MetricInfo:
    """Of `retention/forgetting`: the loss of the source task's metric, in its unit."""
    return MetricInfo("retention/forgetting", "min", "difference of shares" if source.share else source.unit)


def on_test(name: str) -> str:
    """The test split's name of a metric that validation names `name`: `val/x` → `test/x`, `drift/x` → `test/drift/x`."""
    if name.startswith("test/"):
        return name
    return "test/" + name.removeprefix("val/")


def on_validation(name: str) -> str:
    """The validation split's name of a metric: `test/retention/x` → `retention/x`, `test/x` → `val/x`."""
    if not name.startswith("test/"):
        return name
    rest = name.removeprefix("test/")
    return rest if rest.startswith(("retention/", "drift/")) else f"val/{rest}"


def is_source_metric(name: str) -> bool:
    """Whether a metric is one of the source task's own, such as `retention/accuracy`."""
    return name.startswith("retention/") and not name.endswith(("/loss", "/agreement", "/forgetting"))
