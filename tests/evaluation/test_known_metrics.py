"""Which way a metric is better, and its unit: declared by a task, carried by run.json, read where the task is unknown."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_lightning.ablation.selection import Candidate, choose, metrics_of
from sft_lightning.ablation.study import Select
from sft_lightning.cli.main import main
from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.base import DATA_MODULES
from sft_lightning.evaluation.known_metrics import info_of
from sft_lightning.evaluation.selection import selecting
from sft_lightning.networks import MLP
from sft_lightning.report import loose_statistics, read
from sft_lightning.report.build import compare
from sft_lightning.report.model import Comparison
from sft_lightning.report.summary import Row, answers, rows
from sft_lightning.runs.metric_facts import facts, primary
from sft_lightning.tasks import TASKS
from tests.refused import refused
from tests.survival.cases import on_digits

PACED = {
    "miss_rate": MetricInfo("miss_rate", "min", SHARE),
    "hit_rate": MetricInfo("hit_rate", "max", SHARE),
    "lag": MetricInfo("lag", "min", "s"),
    "loss": MetricInfo("loss", "min", "nats"),
}


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a user's own task. Nothing in this process knows the task any more."""
    folder = tmp_path_factory.mktemp("paced")
    config = on_digits("plain", {"max_epochs": 2}, {})
    del config["data"]["init_args"]["shots_per_class"]  # which is for the task classification
    config["data"]["class_path"] = "tests.evaluation.paced.PacedDigits"
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "wandb": "disabled", "experiment": "paced"}))
    with pytest.MonkeyPatch.context() as patched:
        for registry in (TASKS, DATA_MODULES):
            patched.setattr(registry, "_classes", dict(registry))
        patched.setattr(MLP, "tasks", (*MLP.tasks, "paced"))
        patched.setenv("SFT_RUNS_DIR", str(folder / "runs"))
        arguments = ["fit", "--config", str(folder / "config.yaml"), "--run_id", "one", "--quiet", "true"]
        assert main(arguments) == 0
    assert "paced" not in TASKS
    return folder / "runs/paced/one"


def record_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run.json").read_text())
    return found


def copies(run: Path, to: Path, forget: str | None = None) -> Path:
    """Three runs of each of two arms: `quick` misses less often, and answers sooner. Nobody knows about `forget`."""
    for arm, miss, lag in (("quick", 0.1, 2.0), ("slow", 0.3, 5.0)):
        for seed in range(3):
            path, record = to / f"{arm}-{seed}", record_of(run)
            shutil.copytree(run, path, ignore=shutil.ignore_patterns("checkpoints", "model"))
            record |= {"experiment": arm, "seed": seed}
            for name, value in (("miss_rate", miss), ("lag", lag)):
                value += seed / 1000 * (1 + (arm == "slow"))
                record["metrics"][f"val/{name}"] |= {"selected": value, "best": value}
                record["test"][f"test/{name}"] = value
            if forget is not None:
                record["metric_info"] = {k: v for k, v in record["metric_info"].items() if not k.endswith(forget)}
            (path / "run.json").write_text(json.dumps(record))
    return to


def compared(folder: Path, *metrics: str) -> tuple[Comparison, list[Row], str]:
    comparison = compare(read.collect([str(folder)]), list(metrics))
    found = rows(comparison)
    loose_statistics.add(comparison, found)
    ((_, answer),) = answers(comparison, found)
    return comparison, found, answer


def test_a_run_carries_direction_and_unit_of_its_own_tasks_metrics(paced: Path) -> None:
    record = record_of(paced)
    known = facts(record)
    for stage in ("val", "test"):
        for name, info in PACED.items():
            assert known[f"{stage}/{name}"] == info.named(f"{stage}/{name}")
    assert known["retention/accuracy"] == MetricInfo("retention/accuracy", "max", SHARE)
    assert known["retention/forgetting"] == MetricInfo("retention/forgetting", "min", "difference of shares")
    assert known["n/val"] == MetricInfo("n/val", None, "samples")
    assert primary(record) == {"target": "val/miss_rate", "source": "retention/accuracy"}
    unsaid = {n for part in ("metrics", "test") for n in record[part]} - known.keys()
    assert not unsaid, f"the record has metrics of which it says nothing: {unsaid}"


def test_a_run_keeps_the_lowest_of_a_metric_that_is_better_when_lower(paced: Path) -> None:
    record = record_of(paced)
    history = [json.loads(line) for line in (paced / "metrics.jsonl").read_text().splitlines()]
    for name, best in (("val/miss_rate", min), ("val/hit_rate", max), ("val/lag", min)):
        seen = [row[name] for row in history if name in row and row["step"]]
        assert record["metrics"][name]["extreme"] == best(seen)
    assert record["selected"]["by"] == "val/miss_rate"


def test_compare_ranks_the_metrics_of_a_task_that_it_does_not_know(paced: Path, tmp_path: Path) -> None:
    _, found, answer = compared(copies(paced, tmp_path))
    assert {r.arm: {"val/miss_rate", "val/lag"} <= r.best for r in found} == {"quick": True, "slow": False}
    assert {r.arm: r.front for r in found} == {"quick": True, "slow": False}
    assert "slow learns less (test/miss_rate +20.1 points [" in answer and "(less is better)" in answer


def test_compare_says_seconds_as_plain_numbers(paced: Path, tmp_path: Path) -> None:
    _, _, answer = compared(copies(paced, tmp_path), "val/lag")
    assert "slow learns less (test/lag +3.0" in answer
    assert "points" not in answer


def test_a_metric_of_which_nobody_knows_the_direction_is_said_and_not_ranked(paced: Path, tmp_path: Path) -> None:
    comparison, found, answer = compared(copies(paced, tmp_path, forget="/lag"), "val/lag")
    assert not any("val/lag" in r.best or r.front for r in found)
    assert any("val/lag" in note and "not ranked" in note for note in comparison.notes)
    assert answer.startswith("No run says whether more or less of val/lag is better, so the arms are not ranked.")
    comparison, found, _ = compared(tmp_path, "val/miss_rate", "val/lag")
    assert any("val/miss_rate" in r.best for r in found) and not any("val/lag" in r.best for r in found)


def test_runs_that_contradict_each_other_are_not_ranked(paced: Path, tmp_path: Path) -> None:
    copies(paced, tmp_path)
    record = record_of(tmp_path / "slow-1")
    record["metric_info"]["val/lag"]["better"] = record["metric_info"]["test/lag"]["better"] = "max"
    (tmp_path / "slow-1/run.json").write_text(json.dumps(record))
    comparison, found, _ = compared(tmp_path)
    assert not any("val/lag" in r.best for r in found)
    assert any("val/lag" in note and "contradict" in note for note in comparison.notes)


def test_an_ablation_chooses_by_the_run_s_own_word(paced: Path) -> None:
    record = record_of(paced)
    metrics = metrics_of(Select(rule="best"), record)
    assert metrics.target == MetricInfo("val/miss_rate", "min", SHARE)
    assert metrics.kept == MetricInfo("retention/accuracy", "max", SHARE)
    tried = [Candidate({"lr": lr}, miss, 0.9, 1, 1) for lr, miss in ((0.1, 0.3), (0.01, 0.1), (0.001, 0.2))]
    assert choose(tried, Select(rule="best"), metrics)[0].setting == {"lr": 0.01}


def test_an_ablation_refuses_a_metric_of_which_nobody_knows_the_direction(paced: Path) -> None:
    record = record_of(paced)
    del record["metric_info"]["val/lag"]
    with refused("select.target", "'val/lag'"):
        metrics_of(Select(target="val/lag"), record)


def test_checkpoints_are_not_chosen_by_what_nobody_knows() -> None:
    info = TaskInfo("classification", 3)
    assert selecting(info, None) == ("val/accuracy", "max")
    assert selecting(info, "val/ece") == ("val/ece", "min") and selecting(info, "retention/brier") == (
        "retention/brier",
        "min",
    )
    assert selecting(info, "retention/loss") == ("retention/loss", "min")
    with refused("select_by", "'drift/mine'"):
        selecting(info, "drift/mine")


def test_a_retention_metric_is_of_the_source_task() -> None:
    target, source = TaskInfo("classification", 3), TaskInfo("regression", 1)
    assert info_of("val/mse", target, source) is None
    assert info_of("retention/mse", target, source) == MetricInfo("retention/mse", "min", "label units squared")
    assert info_of("retention/loss", target, source) == MetricInfo("retention/loss", "min", "label units squared")
    assert info_of("test/retention/forgetting", target, source) == MetricInfo(
        "test/retention/forgetting", "min", "label units squared"
    )
    loss = info_of("retention/loss")  # of a source task that is not known yet
    assert loss == MetricInfo("retention/loss", "min", "")
