"""Looks up facts about a logged metric (direction, unit) in its task or in the framework's own gauges."""

from collections.abc import Mapping
from typing import Any

from sft_lightning.core.metric_info import MetricInfo, agreed, forgetting, gauge, on_validation
from sft_lightning.core.structures import TaskInfo
from sft_lightning.tasks import TASKS, make_task


def info_of(metric: str, task: TaskInfo | None = None, source: TaskInfo | None = None) -> MetricInfo | None:
    """Direction and unit of a logged metric; None if they are unknown.

    Args:
        metric: Its name with its stage, such as `val/accuracy`.
        task: The target task, which `val/…` and `test/…` belong to; None searches all tasks.
        source: The source task, which `retention/…` belongs to; likewise.
    """
    if metric.startswith("n/"):
        return MetricInfo(metric, None, "samples")
    stage, _, name = on_validation(metric).partition("/")
    if (known := gauge(on_validation(metric))) is not None:
        return known.named(metric)
    if stage not in ("val", "retention"):
        return None
    if (stage, name) == ("retention", "forgetting"):
        return forgetting(make_task(source).primary if source else MetricInfo(name, "min")).named(metric)
    asked = task if stage == "val" else source
    name = name.removeprefix("relearn_") if stage == "retention" else name
    tasks = [type(make_task(asked))] if asked is not None else TASKS.values()
    found = agreed(metric, [info for t in tasks if (info := t.metric_info(name)) is not None])
    if found is None and stage == "retention" and "/" in name:  # of a named set
        found = info_of(f"retention/{name.partition('/')[2]}", task, source)
    return None if found is None else found.named(metric)


def direction(metric: str) -> str | None:
    """'max' or 'min' for a metric of any task; None if neither is better, or if the direction is unknown."""
    found = info_of(metric)
    return None if found is None else found.better


def for_record(record: Mapping[str, Any], task: TaskInfo, source: TaskInfo | None) -> dict[str, Any]:
    """`metric_info` and `primary` of `run.json`: the facts of every metric in the record.

    A reader ranks a run's metrics by them, even without its task. Unknown metrics are left out. Entries that the record has
    already are kept, as a later test may not have the source data.
    """
    names = [n for part in ("metrics", "test", "validate") for n in record.get(part) or {}]
    names += [f"{part}/{n}" for part in ("n", "times") for n in record.get(part) or {}]
    known = [info for n in dict.fromkeys(names) if (info := info_of(n, task, source)) is not None]
    primary = {"target": f"val/{make_task(task).primary.name}"}
    if source is not None:
        primary["source"] = f"retention/{make_task(source).primary.name}"
    return {
        "metric_info": {info.name: info.to_dict() for info in known} | (record.get("metric_info") or {}),
        "primary": (record.get("primary") or {}) | primary,
    }
