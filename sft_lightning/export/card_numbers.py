"""The numbers of a model card: every metric that a run's tasks measured, before and after, each with its n."""

from collections.abc import Iterator
from typing import Any

from sft_lightning.core.metric_info import OF_TEXTS, counted, on_test
from sft_lightning.export.study_place import StudyPlace
from sft_lightning.export.tuned import Tuned
from sft_lightning.tasks import Task, make_task
from sft_lightning.tasks.next_token import NextToken


def columns(tuned: Tuned, place: StudyPlace | None) -> Iterator[dict[str, Any]]:
    """What was learned and what was kept, by each metric that the tasks measure: values before and after, n, split, and spread
    over seeds. Scores of generated texts come first, then the metric that chose the checkpoint.
    """
    config, source = tuned.config, source_task(tuned)
    blocks = [("learned", tuned.task, "val", config.get("data") or {})]
    if source is not None:
        blocks.append(("kept", source, "retention", config.get("retention") or {}))
        sets = config.get("retention_sets") or {}
        blocks += [(f"kept, {name}", source, f"retention/{name}", {"class_path": name, **sets[name]}) for name in sets]
    for what, task, prefix, block in blocks:
        data = str(block.get("class_path", "")).rpartition(".")[2]
        for metric in shown_metrics(tuned, task, prefix):
            info = task.metric_info(metric)
            less = info is not None and info.better == "min"
            about = {"what": what, "metric": metric, "less_is_better": less, "data": data}
            yield from rows_of(tuned.run.record, about, prefix, place)


def rows_of(
    record: dict[str, Any], about: dict[str, Any], prefix: str, place: StudyPlace | None
) -> Iterator[dict[str, Any]]:
    """The rows of one metric: on validation, and on the test split if it was measured there. A number without its n says
    nothing, and is left out.
    """
    name = f"{prefix}/{about['metric']}"
    entry, test, numbers = record["metrics"][name], record.get("test") or {}, record.get("n") or {}
    if numbers.get(n := counted(name, numbers)) is not None:
        value = number(entry.get("best", entry.get("final")))
        row = {**about, "split": "validation", "n": numbers[n], "value": value, "spread": ""}
        yield {**row, "before": number(entry.get("before"))}
    tested = on_test(name)
    name = tested if tested in test else name
    if name in test and numbers.get(n := counted(tested, numbers)) is not None:
        spread = place.spread(tested) if place is not None else ""
        yield {**about, "before": None, "split": "test", "n": numbers[n], "value": number(test[name]), "spread": spread}


def source_task(tuned: Tuned) -> Task | None:
    """The task of the source data; None if nothing about it was measured."""
    if not any(name.startswith("retention/") for name in tuned.run.record["metrics"]):
        return None
    return tuned.task if tuned.network.source_task is None else make_task(tuned.network.source_task)


def shown_metrics(tuned: Tuned, task: Task, prefix: str) -> list[str]:
    """The task's metrics that the run recorded on a split, in the order of `columns`."""
    primary = str((tuned.run.record.get("primary") or {}).get("target" if prefix == "val" else "source") or "")
    names = dict.fromkeys([primary.rpartition("/")[2], *task.metric_names, *task.metrics])
    found = [name for name in names if f"{prefix}/{name}" in tuned.run.record["metrics"]]
    return sorted(found, key=lambda name: name not in OF_TEXTS or not isinstance(task, NextToken))


def number(value: Any) -> float | None:
    """A metric's value; None for infinities and NaN, which run.json writes as text."""
    return float(value) if isinstance(value, (int, float)) else None
