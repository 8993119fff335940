"""Reads from runs' records the direction and unit of each metric, and the primary metrics of their tasks."""

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
"""Facts for records older than `metric_info`, by the metric's name without its split"""
UNRECORDED_PRIMARY = {
    "classification": "accuracy",
    "multi_label": "label_accuracy",
    "regression": "mse",
    "causal_lm": "perplexity",
}
"""For the same records: each task's primary metric if its data named none"""


def unrecorded(name: str) -> MetricInfo | None:
    """Returns the facts about a metric by its name alone, for old records; None if unknown."""
    if (known := gauge(name)) is not None:
        return known
    stage, _, last = name.rpartition("/")
    found = UNRECORDED.get(last) if stage in ("val", "test", "retention") else None
    return None if found is None else found.named(name)


def facts(record: Mapping[str, Any]) -> dict[str, MetricInfo]:
    """Returns {logged name: facts} of a run's metrics, from its record. Unknown metrics are left out."""
    held = record.get("metric_info")
    if isinstance(held, Mapping):
        found = [MetricInfo.of(str(name), about) for name, about in held.items()]
        return {info.name: info for info in found if info is not None}
    parts = (record.get("metrics"), record.get("test"), record.get("validate"))
    names = dict.fromkeys(str(n) for part in parts if isinstance(part, Mapping) for n in part)
    return {name: info for name in [*names, *GAUGES] if (info := unrecorded(name)) is not None}


def find(known: Mapping[str, MetricInfo], name: str) -> MetricInfo | None:
    """Returns the facts about a metric, under its own name or that of the other split; None if unknown."""
    return next((known[n] for n in (name, on_validation(name), on_test(name)) if n in known), None)


def together(said: Iterable[Mapping[str, MetricInfo]]) -> tuple[dict[str, MetricInfo], list[str]]:
    """Combines the facts of several runs. Returns ({name: facts}, names whose directions differ)."""
    held: dict[str, list[MetricInfo]] = {}
    for one in said:
        for name, info in one.items():
            held.setdefault(name, []).append(info)
    found = {name: agreed(name, infos) for name, infos in held.items()}
    return {n: info for n, info in found.items() if info is not None}, [n for n, info in found.items() if info is None]


def primary(record: Mapping[str, Any]) -> dict[str, str]:
    """Returns the known primary metrics of a run's tasks: {'target': `val/…`, 'source': `retention/…`}."""
    held = record.get("primary")
    if isinstance(held, Mapping):
        return {which: str(held[which]) for which in ("target", "source") if held.get(which)}
    task = record.get("task")
    if not isinstance(task, Mapping):
        return {}
    metrics = task.get("metrics")
    named = metrics[0] if isinstance(metrics, list) and metrics else UNRECORDED_PRIMARY.get(str(task.get("name")))
    return {"target": f"val/{named}"} if named else {}
