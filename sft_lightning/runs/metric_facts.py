"""What runs' records say of their metrics: direction and unit of each, and the primary metrics of their tasks."""

from collections.abc import Iterable, Mapping
from typing import Any

from sft_lightning.core.metric_info import GAUGES, SHARE, MetricInfo, agreed, gauge, on_test, on_validation

UNRECORDED = {
    info.name: info
    for info in (
        *(MetricInfo(name, "max", SHARE) for name in ("accuracy", "f1", "f1_macro", "f1_micro", "exact_match")),
        *(MetricInfo(name, "max", SHARE) for name in ("auroc", "iou", "precision", "recall")),
        *(MetricInfo(name, "max") for name in ("token_accuracy", "label_accuracy", "matthews", "pearson", "spearman")),
        *(MetricInfo(name, "min") for name in ("loss", "forgetting", "perplexity", "mse", "mae", "rmse", "error")),
    )
}
"""For records made before `metric_info` was written: what was known then of metrics, without their stage."""
UNRECORDED_PRIMARY = {
    "classification": "accuracy",
    "multi_label": "label_accuracy",
    "regression": "mse",
    "causal_lm": "perplexity",
}
"""For the same records: each task's primary metric where its data named none."""


def unrecorded(name: str) -> MetricInfo | None:
    """What is known of a metric from its name alone, for records that do not say it."""
    if (known := gauge(name)) is not None:
        return known
    stage, _, last = name.rpartition("/")
    found = UNRECORDED.get(last) if stage in ("val", "test", "retention") else None
    return None if found is None else found.named(name)


def facts(record: Mapping[str, Any]) -> dict[str, MetricInfo]:
    """{logged name: what is known of it} of a run, from its record; a metric that nobody knows is left out."""
    held = record.get("metric_info")
    if isinstance(held, Mapping):
        found = [MetricInfo.of(str(name), about) for name, about in held.items()]
        return {info.name: info for info in found if info is not None}
    parts = (record.get("metrics"), record.get("test"), record.get("validate"))
    names = dict.fromkeys(str(n) for part in parts if isinstance(part, Mapping) for n in part)
    return {name: info for name in [*names, *GAUGES] if (info := unrecorded(name)) is not None}


def find(known: Mapping[str, MetricInfo], name: str) -> MetricInfo | None:
    """What is known of a metric under its own name, or under that of the other split."""
    return next((known[n] for n in (name, on_validation(name), on_test(name)) if n in known), None)


def together(said: Iterable[Mapping[str, MetricInfo]]) -> tuple[dict[str, MetricInfo], list[str]]:
    """(what several runs say of their metrics, names of which they contradict each other)."""
    held: dict[str, list[MetricInfo]] = {}
    for one in said:
        for name, info in one.items():
            held.setdefault(name, []).append(info)
    found = {name: agreed(name, infos) for name, infos in held.items()}
    return {n: info for n, info in found.items() if info is not None}, [n for n, info in found.items() if info is None]


def primary(record: Mapping[str, Any]) -> dict[str, str]:
    """{'target': `val/…`, 'source': `retention/…`}: the primary metrics of a run's tasks, as far as they are known."""
    held = record.get("primary")
    if isinstance(held, Mapping):
        return {which: str(held[which]) for which in ("target", "source") if held.get(which)}
    task = record.get("task")
    if not isinstance(task, Mapping):
        return {}
    metrics = task.get("metrics")
    named = metrics[0] if isinstance(metrics, list) and metrics else UNRECORDED_PRIMARY.get(str(task.get("name")))
    return {"target": f"val/{named}"} if named else {}
