"""The run directory's public API: made, written, read back, and what happens when it is damaged."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.runs import MetricsLog, Record, RunDirectory, create_run, load, make_run_id
from sft_lightning.runs.directory import write_atomic
from tests.refused import refused


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def recorded(run: RunDirectory) -> Record:
    """A run that has begun."""
    record = Record(run.record)
    record.start(experiment=run.experiment)
    return record


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return create_run(tmp_path / "runs", "exp", "one")


@pytest.fixture
def log(run: RunDirectory) -> Iterator[MetricsLog]:
    return MetricsLog(run.metrics)


class TestDirectory:
    def test_lies_where_it_should_and_knows_its_names(self, run: RunDirectory, tmp_path: Path) -> None:
        assert run.path == tmp_path / "runs/exp/one"
        assert run.path.is_dir()
        assert (run.experiment, run.run_id) == ("exp", "one")
        within = (run.config, run.record, run.metrics, run.last, run.best, run.model, run.predictions, run.figures)
        assert [str(p.relative_to(run.path)) for p in within] == [
            "config.yaml", "run.json", "metrics.jsonl", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "model",
            "predictions.jsonl", "figures",
        ]  # fmt: skip

    def test_ids_made_in_the_same_second_differ_and_sort_by_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import time

        monkeypatch.setattr(time, "gmtime", lambda: time.struct_time((2030, 1, 2, 3, 4, 5, 2, 2, 0)))
        ids = [make_run_id() for _ in range(20)]
        assert all(i.startswith("20300102-030405-") for i in ids)
        assert len(set(ids)) > 15, "ids of one second are not random"

    def test_without_an_id_each_run_gets_its_own(self, tmp_path: Path) -> None:
        made = {create_run(tmp_path, "exp").run_id for _ in range(5)}
        assert len(made) == 5

    def test_an_existing_run_is_never_reused(self, run: RunDirectory, tmp_path: Path) -> None:
        with refused("run_id", tmp_path / "runs/exp/one", f"fit --resume {tmp_path}"):
            create_run(tmp_path / "runs", "exp", "one")

    @pytest.mark.parametrize("name", ["", "a/b", "../up", "-dash", ".hidden", "ä", "x" * 65, "a b"])
    def test_names_that_would_leave_the_folder_or_break_tools_are_refused(self, name: str, tmp_path: Path) -> None:
        with refused("run_id", repr(name)):
            create_run(tmp_path, "exp", name)
        with refused("experiment", repr(name)):
            create_run(tmp_path, name, "one")
        assert not list(tmp_path.iterdir())

    def test_a_file_in_the_way_is_said_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("")
        with refused("runs_dir", tmp_path / "runs/exp") as caught:
            create_run(tmp_path / "runs", "exp")
        assert "\n" not in str(caught.value)


class TestWriteAtomic:
    def test_replaces_the_whole_content(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        write_atomic(path, "long content")
        write_atomic(path, "short")
        assert path.read_text() == "short"
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("failing", ["fsync", "replace"])
    def test_a_failure_leaves_the_old_content_and_nothing_beside_it(
        self, failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "file"
        write_atomic(path, "old")

        def full(*arguments: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(*((os, "fsync", full) if failing == "fsync" else (Path, "replace", full)))
            with pytest.raises(OSError, match="No space"):
                write_atomic(path, "new")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


class TestRecord:
    def test_start_and_end_are_told_and_read_back(self, run: RunDirectory) -> None:
        record = recorded(run)
        assert load(run.path).status == "running"
        record.end("finished", steps=7)
        again = load(run.path)
        assert again.status == "finished"
        assert again.record["steps"] == 7
        assert again.record["schema"] == 1
        assert again.record["versions"]["sft_lightning"]
        assert again.record["times"]["started"] <= again.record["times"]["ended"]

    def test_a_second_start_keeps_when_the_run_first_started(self, run: RunDirectory) -> None:
        record = recorded(run)
        record.update(times={"started": "2000-01-01T00:00:00Z"})
        again = Record.read(run.record)
        again.start()
        assert load(run.path).record["times"]["started"] == "2000-01-01T00:00:00Z"

    @pytest.mark.parametrize(
        ("better", "values", "extreme", "step"),
        [
            ("max", [0.2, 0.9, 0.9, 0.5], 0.9, 2),
            ("min", [0.2, 0.9, 0.1, 0.1], 0.1, 3),
            ("min", [-1.0, 0.0], -1.0, 1),
        ],
    )
    def test_the_extreme_follows_the_direction_and_is_the_first_of_equals(
        self, run: RunDirectory, better: str, values: list[float], extreme: float, step: int
    ) -> None:
        record = recorded(run)
        for at, value in enumerate(values, start=1):
            record.metric("val/x", value, at, better)
        record.write()
        entry = load(run.path).record["metrics"]["val/x"]
        assert (entry["extreme"], entry["extreme_step"]) == (extreme, step)
        assert (entry["final"], entry["final_step"]) == (values[-1], len(values))

    @pytest.mark.parametrize("better", ["max", "min"])
    def test_nan_is_never_the_extreme_where_there_was_a_number(self, run: RunDirectory, better: str) -> None:
        record = recorded(run)
        for at, value in enumerate([math.nan, 0.5, math.nan], start=1):
            record.metric("val/loss", value, at, better)
        record.write()
        loaded = load(run.path)
        assert loaded.metric("val/loss", "extreme") == 0.5
        assert loaded.record["metrics"]["val/loss"]["extreme_step"] == 2
        assert math.isnan(loaded.metric("val/loss"))


class TestMetricsLog:
    def test_what_comes_at_the_same_step_is_one_object(self, log: MetricsLog) -> None:
        log.log_metrics({"train/loss": 1.0, "epoch": 0.0}, step=5)
        log.log_metrics({"val/loss": 2.0}, step=5)
        log.log_metrics({"train/loss": 0.5}, step=6)
        log.finalize("success")
        first, second = lines(log.path)
        assert {k: v for k, v in first.items() if k != "time"} == {
            "step": 5, "train/loss": 1.0, "val/loss": 2.0, "epoch": 0,
        }  # fmt: skip
        assert isinstance(first["epoch"], int)
        assert (second["step"], second["train/loss"]) == (6, 0.5)

    def test_also_where_the_first_part_was_written_already(self, log: MetricsLog) -> None:
        """A fit ends, then its last validation or its test logs at the same step."""
        log.log_metrics({"train/loss": 2.0}, step=4)
        log.log_metrics({"train/loss": 1.0}, step=5)
        log.finalize("success")
        log.log_metrics({"val/loss": 2.0}, step=5)
        log.finalize("success")
        assert [row["step"] for row in lines(log.path)] == [4, 5]
        assert lines(log.path)[1].keys() >= {"train/loss", "val/loss"}

    def test_what_testing_says_of_retention_does_not_replace_what_validation_said(self, log: MetricsLog) -> None:
        log.log_metrics({"val/accuracy": 0.9, "retention/accuracy": 0.8, "drift/kl": 0.1}, step=5)
        log.log_metrics({"test/accuracy": 0.7, "retention/accuracy": 0.6, "drift/kl": 0.2}, step=5)
        log.finalize("success")
        (row,) = lines(log.path)
        assert (row["retention/accuracy"], row["drift/kl"]) == (0.8, 0.1)
        assert (row["test/accuracy"], row["test/retention/accuracy"], row["test/drift/kl"]) == (0.7, 0.6, 0.2)

    def test_nan_and_infinities_are_strings_in_the_file_and_numbers_again_when_loaded(
        self, run: RunDirectory, log: MetricsLog
    ) -> None:
        recorded(run)
        values = {"val/loss": math.nan, "drift/kl": math.inf, "retention/forgetting": -math.inf}
        log.log_metrics(values, step=1)
        log.finalize("success")

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        for line in run.metrics.read_text().splitlines():
            json.loads(line, parse_constant=refuse)
        (row,) = load(run.path).history()
        assert math.isnan(row["val/loss"])
        assert (row["drift/kl"], row["retention/forgetting"]) == (math.inf, -math.inf)

    def test_rewind_drops_later_steps_and_a_torn_line(self, run: RunDirectory, log: MetricsLog) -> None:
        recorded(run)
        for step in (1, 2, 3, 4):
            log.log_metrics({"train/loss": float(step)}, step=step)
        log.flush()
        with run.metrics.open("a") as file:
            file.write('{"step": 5, "tra')
        again = MetricsLog(run.metrics)
        again.rewind(2)
        again.log_metrics({"val/loss": 9.0}, step=2)
        again.log_metrics({"train/loss": 30.0}, step=3)
        again.finalize("success")
        loaded = load(run.path)
        assert [r["step"] for r in loaded.history()] == [1, 2, 3]
        assert loaded.series("train/loss") == ([1, 2, 3], [1.0, 2.0, 30.0])
        assert loaded.series("val/loss") == ([2], [9.0])

    def test_rewind_to_before_everything_and_without_a_file(self, log: MetricsLog) -> None:
        log.rewind(3)
        assert not log.path.exists()
        log.log_metrics({"a": 1.0}, step=5)
        log.flush()
        log.rewind(3)
        log.log_metrics({"a": 2.0}, step=4)
        log.flush()
        assert [(r["step"], r["a"]) for r in lines(log.path)] == [(4, 2.0)]


class TestLoad:
    def test_history_survives_a_torn_last_line(self, run: RunDirectory, log: MetricsLog) -> None:
        """A run that was killed, or that is writing now."""
        recorded(run)
        log.log_metrics({"train/loss": 1.0}, step=1)
        log.flush()
        with run.metrics.open("a") as file:
            file.write('{"step": 2, "train/lo')
        assert [r["step"] for r in load(run.path).history()] == [1]

    def test_damage_within_the_history_is_not_skipped_silently(self, run: RunDirectory) -> None:
        recorded(run)
        run.metrics.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
        with refused(run.metrics, "line 2"):
            load(run.path).history()

    def test_no_history_is_an_empty_one(self, run: RunDirectory) -> None:
        recorded(run)
        assert load(run.path).history() == []

    def test_metrics_and_metric_tell_final_best_and_before(self, run: RunDirectory) -> None:
        record = recorded(run)
        record.content["metrics"]["val/accuracy"] = {"before": 0.1}
        record.metric("val/accuracy", 0.9, 1, "max")
        record.select({"val/accuracy": 0.9}, by="val/accuracy", step=1, epoch=0)
        record.metric("val/accuracy", 0.95, 2, "max")
        record.metric("val/accuracy", 0.8, 3, "max")
        record.content["metrics"]["drift/kl"] = {"before": 0.0}
        record.write()
        loaded = load(str(run.path))
        assert loaded.metrics == {"val/accuracy": 0.8}, "a metric with no final value must not be among the final ones"
        which = ("before", "best", "selected", "extreme", "final")
        assert [loaded.metric("val/accuracy", w) for w in which] == [0.1, 0.9, 0.9, 0.95, 0.8]
        with refused(run.path, "'val/acuracy'", "'val/accuracy'"):
            loaded.metric("val/acuracy")
        with refused(run.path, "'drift/kl'", "selected", "before"):
            loaded.metric("drift/kl", "selected")

    def test_a_folder_that_is_no_run_is_named(self, tmp_path: Path) -> None:
        for path in (tmp_path, tmp_path / "nowhere"):
            with refused(path, "run.json"):
                load(path)

    @pytest.mark.parametrize("content", ["", '{"metrics": {', "[]", '{"schema": 1}', "\x00\x01", "null"])
    def test_a_damaged_record_is_said_in_one_line(self, run: RunDirectory, content: str) -> None:
        run.record.write_text(content)
        with refused(run.record) as caught:
            load(run.path)
        assert "\n" not in str(caught.value)
