"""Two processes, and bf16: the command line's numbers are those of one process in fp32."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.cli.main import main
from sft_lightning.runs import Run, load
from tests.cli.conftest import ROOT

FIT = ("fit", "--config", "experiments/digits/distill.yaml", "--trainer.max_epochs", 10)
SPLIT = ("--trainer.strategy", "ddp", "--trainer.devices", 2, "--trainer.accelerator", "cpu")
# 45 samples, 8 a step in 2 micro-batches: the last step has a full micro-batch and one with a single sample, so that a
# rank gets none. 225 and 168 samples do not divide by the ranks' batches either.
RAGGED = ("--data.shots_per_class", 9, "--data.batch_size", 8, "--trainer.accumulate_grad_batches", 2)


@dataclass
class Pair:
    """The same run in one process and in two."""

    one: Run
    two: Run
    out: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where runs lie; the working folder is the project's."""
    folder = tmp_path_factory.mktemp("parallel")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(ROOT)
        patched.setenv("SFT_RUNS_DIR", str(folder))
        for variable in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
            patched.setenv(variable, str(folder.parent))
        yield folder


def in_two_processes(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sft_lightning", *map(str, (*arguments, *SPLIT))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pair(runs: Path, name: str, *arguments: object) -> Pair:
    one = (*FIT, *arguments, "--experiment", name, "--run_id", "one", "--wandb", "disabled")
    assert main([str(a) for a in one]) == 0
    out = in_two_processes(*FIT, *arguments, "--experiment", name)
    (two,) = [p for p in (runs / name).iterdir() if p.name != "one"]  # each process making its own would be two
    return Pair(load(runs / name / "one"), load(two), out)


@pytest.fixture(scope="module")
def even(runs: Path) -> Pair:
    return pair(runs, "even")


@pytest.fixture(scope="module")
def ragged(runs: Path) -> Pair:
    return pair(runs, "ragged", *RAGGED, "--wandb", "disabled")


def same_values(a: dict[str, Any], b: dict[str, Any], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert b[name] == pytest.approx(a[name], abs=tolerance, rel=tolerance), name


@pytest.mark.parametrize("which", ["even", pytest.param("ragged", marks=pytest.mark.slow)])
class TestTwoProcesses:
    @pytest.fixture
    def both(self, which: str, request: pytest.FixtureRequest) -> Pair:
        found: Pair = request.getfixturevalue(which)
        return found

    def test_make_one_run_that_says_so(self, both: Pair) -> None:
        assert both.two.status == "finished"
        assert both.two.record["device"]["ranks"] == 2
        assert both.out.count("\nrun  ") == 1, "both processes spoke"
        assert str(both.two.path) in both.out
        left = [p for p in both.two.path.rglob("*") if p.name.endswith(".tmp")]
        assert not left

    def test_measure_what_one_process_measures(self, both: Pair) -> None:
        assert both.one.record["steps"] == both.two.record["steps"]
        for which in ("before", "final", "best", "selected"):
            values = [
                {n: m[which] for n, m in run.record["metrics"].items() if which in m} for run in (both.one, both.two)
            ]
            assert {"val/accuracy", "retention/accuracy", "retention/forgetting", "drift/kl"} <= values[0].keys()
            same_values(values[0], values[1], 1e-4)
        assert {"test/accuracy", "retention/accuracy", "drift/kl"} <= both.one.record["test"].keys()
        same_values(both.one.record["test"], both.two.record["test"], 1e-4)
        assert both.one.record["data"]["fingerprint"] == both.two.record["data"]["fingerprint"]
        assert both.one.record["teacher_hash"] == both.two.record["teacher_hash"]

    def test_end_with_the_same_weights(self, both: Pair) -> None:
        for file in ("last", "best"):
            one, two = (
                torch.load(getattr(r.files, file), weights_only=True)["state_dict"] for r in (both.one, both.two)
            )
            assert one.keys() == two.keys()
            for name in one:
                torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-5, msg=f"{file}: {name}")

    def test_log_each_step_once_with_the_values_of_one_process(self, both: Pair) -> None:
        one, two = both.one.history(), both.two.history()
        steps = [row["step"] for row in two]
        assert steps == sorted(set(steps))
        assert steps == [row["step"] for row in one]
        for a, b in zip(one, two, strict=True):
            same_values({k: a[k] for k in a if k != "time"}, {k: b[k] for k in b if k != "time"}, 1e-4)


def test_wandbs_confusion_matrix_has_the_samples_of_both_processes(even: Pair) -> None:
    (folder,) = (even.two.path / "wandb").glob("offline-run-*")
    for split, count in (("val", 168), ("test", 224)):
        (table,) = folder.glob(f"files/media/table/{split}/confusion_matrix*.json")
        assert sum(row[-1] for row in json.loads(table.read_text())["data"]) == count


@pytest.mark.slow
def test_predict_in_two_processes_writes_each_sample_once(even: Pair) -> None:
    def rows() -> list[dict[str, Any]]:
        return [json.loads(line) for line in even.one.files.predictions.read_text().splitlines()]

    assert main(["predict", "--run", str(even.one.path)]) == 0
    alone = rows()
    even.one.files.predictions.unlink()
    in_two_processes("predict", "--run", even.one.path)
    together = rows()
    assert [r["index"] for r in together] == [r["index"] for r in alone]
    assert len({r["index"] for r in together}) == len(together) == 224
    for a, b in zip(alone, together, strict=True):
        assert a["label"] == b["label"]
        assert b["probabilities"] == pytest.approx(a["probabilities"], abs=1e-5)


def test_bf16_comes_to_the_metrics_of_fp32(runs: Path) -> None:
    """bf16 has 8 significant bits. Over 50 steps that may move a sample in 168 or two; losses by a few per cent."""
    fit: Callable[..., int] = lambda *a: main([str(x) for x in (*FIT, "--experiment", "precision", *a)])  # noqa: E731
    for precision in ("32-true", "bf16-mixed"):
        assert fit("--trainer.precision", precision, "--run_id", precision, "--wandb", "disabled") == 0
    exact, mixed = (load(runs / "precision" / p) for p in ("32-true", "bf16-mixed"))
    assert mixed.record["device"]["precision"] == "bf16-mixed"
    assert exact.metrics.keys() == mixed.metrics.keys()
    for name in ("val/accuracy", "val/f1_macro", "retention/accuracy", "retention/agreement", "drift/features_cka"):
        assert mixed.metrics[name] == pytest.approx(exact.metrics[name], abs=0.02), name
    for name in ("val/loss", "train/loss", "retention/loss", "drift/weights_l2", "drift/kl"):
        assert mixed.metrics[name] == pytest.approx(exact.metrics[name], rel=0.05), name
    assert mixed.metrics["val/loss"] != exact.metrics["val/loss"], "bf16 was not used"
    saved = torch.load(mixed.files.last, weights_only=True)["state_dict"]
    assert {t.dtype for t in saved.values() if t.is_floating_point()} == {torch.float32}, "master weights are fp32"
