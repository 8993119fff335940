"""What run.json says of metrics, and what is known of them where it was written before it said anything."""

from typing import Any

import pytest

from sft_lightning.core.metric_info import MetricInfo, agreed, on_test, on_validation
from sft_lightning.core.structures import TaskInfo
from sft_lightning.evaluation.known_metrics import for_record
from sft_lightning.runs.metric_facts import UNRECORDED, UNRECORDED_PRIMARY, facts, find, primary, together
from sft_lightning.runs.record import misfit
from sft_lightning.tasks import TASKS
from tests.refused import refused

GAUGED = ("retention/agreement", "drift/kl", "drift/features_cka", "drift/weights_l2", "drift/source_correlation")


def old_record(task: str) -> dict[str, Any]:
    """A record with every metric that a task of the first versions could have, and nothing said of them."""
    names = [f"{stage}/{n}" for stage in ("val", "retention") for n in ("loss", *TASKS[task].metrics)]
    names = [name for name in names if name.rpartition("/")[2] in UNRECORDED]  # others came later
    return {"metrics": {n: {"final": 0.5} for n in (*names, "retention/forgetting", *GAUGED)}, "task": {"name": task}}


@pytest.mark.parametrize("task", UNRECORDED_PRIMARY)
def test_an_old_record_is_read_as_its_task_declares_today(task: str) -> None:
    record, info = old_record(task), TaskInfo(task, 3)
    new = {**record, **for_record(record, info, info)}
    old = facts(record)
    for name in record["metrics"]:
        assert old[name].better == facts(new)[name].better, f"{name} of {task} was better the other way"
    if task == "multi_label":  # its first metric was another one then
        assert primary(record)["target"] == "val/label_accuracy"
    else:
        assert primary(record)["target"] == primary(new)["target"]


def test_the_metrics_that_data_named_come_first_in_an_old_record() -> None:
    record = {"metrics": {}, "task": {"name": "regression", "metrics": ["pearson"]}}
    assert primary(record) == {"target": "val/pearson"}
    assert primary({"metrics": {}, "task": None}) == {}


def test_what_an_old_record_has_of_a_stranger_is_not_known() -> None:
    found = facts({"metrics": {"val/accuracy": {}, "val/elegance": {}, "drift/elegance": {}, "mine/accuracy": {}}})
    assert {"val/elegance", "drift/elegance", "mine/accuracy"}.isdisjoint(found)
    assert found["val/accuracy"] == MetricInfo("val/accuracy", "max", "share")


def test_what_a_record_says_stands_also_against_the_name() -> None:
    record = {"metrics": {"val/loss": {}}, "metric_info": {"val/loss": {"better": "max", "unit": "euros"}}}
    assert facts(record) == {"val/loss": MetricInfo("val/loss", "max", "euros")}
    assert find(facts(record), "test/loss") == MetricInfo("val/loss", "max", "euros")


@pytest.mark.parametrize("held", [None, 3, {}, {"better": "up"}, {"better": ["max"]}, {"unit": "s"}])
def test_a_damaged_entry_says_nothing(held: Any) -> None:
    assert facts({"metrics": {}, "metric_info": {"val/x": held}}) == {}


def test_a_record_whose_facts_are_no_object_is_damaged() -> None:
    assert misfit({"metrics": {}, "metric_info": []}) and misfit({"metrics": {}, "primary": "val/accuracy"})


def test_a_later_test_without_source_data_keeps_what_the_fit_said() -> None:
    info = TaskInfo("classification", 3)
    record: dict[str, Any] = {"metrics": {"val/accuracy": {}, "retention/mse": {}, "retention/forgetting": {}}}
    record |= for_record(record, info, TaskInfo("regression", 1))
    record["test"] = {"test/accuracy": 0.5}
    again = {**record, **for_record(record, info, None)}
    assert again["primary"] == {"target": "val/accuracy", "source": "retention/mse"}
    assert facts(again)["retention/forgetting"].unit == "label units squared"
    assert facts(again)["test/accuracy"] == MetricInfo("test/accuracy", "max", "share")


def test_several_runs_agree_or_are_said_to_contradict_each_other() -> None:
    up, down, seconds = MetricInfo("val/x", "max"), MetricInfo("val/x", "min"), MetricInfo("val/x", "max", "s")
    assert together([{"val/x": up}, {"val/x": up}]) == ({"val/x": up}, [])
    assert together([{"val/x": up}, {"val/x": down}]) == ({}, ["val/x"])
    assert agreed("val/x", [up, seconds]) == up, "where units differ the direction is still known"
    assert agreed("val/x", []) is None


def test_a_direction_that_is_no_direction_is_refused() -> None:
    with refused("metric lag", "'max', 'min' or None", "'higher'"):
        MetricInfo("lag", "higher")


@pytest.mark.parametrize(
    ("val", "test"), [("val/x", "test/x"), ("retention/x", "test/retention/x"), ("drift/kl", "test/drift/kl")]
)
def test_each_split_has_its_name_for_a_metric(val: str, test: str) -> None:
    assert (on_test(val), on_validation(test), on_test(test), on_validation(val)) == (test, val, test, val)
