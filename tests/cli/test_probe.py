"""The linear probe as a run: recorded, resumed, tested, predicted from, and in two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Command
from tests.refused import check_printed

PROBE = ("fit", "--config", "experiments/digits/probe.yaml", "--wandb", "disabled")


def test_fit_is_recorded_resumed_tested_and_predicted_from(command: Command) -> None:
    done = command(*PROBE, "--trainer.max_epochs", 5)
    assert done.code == 0, done.err
    found = done.run.record["solved"]
    assert found["converged"] and found["at_end"] is None and (found["n"], found["val_n"]) == (100, 168)
    assert f"solved     strength {found['strength']:.3g}, by val/accuracy" in done.out
    assert done.run.record["steps"] == 1
    test = done.run.record["test"]
    assert test["test/accuracy"] > 0.78, "the solved probe is right on 0.82 to 0.84 of the test images"
    assert test["retention/forgetting"] == test["drift/weights_l2"] == 0.0
    best = next(t for t in found["tried"] if t["strength"] == found["strength"])
    assert best["accuracy"] == pytest.approx(done.run.metrics["val/accuracy"])
    again = command("fit", "--resume", done.run.path, "--wandb", "disabled")
    assert again.code == 0 and again.run.record["solved"] == found and again.run.record["test"] == test
    rows = command("predict", "--run", done.run.path)
    assert rows.code == 0 and len(done.run.files.predictions.read_text().splitlines()) == 224
    refused = command(*PROBE, "--model.lr", 0.1)
    assert refused.code == 2 and len(refused.err.strip().splitlines()) == 1
    check_printed(refused.err, "model", "LinearProbe", "'lr'")


@pytest.mark.slow
def test_two_processes_solve_the_same(command: Command, tmp_path: Path) -> None:
    one = command(*PROBE, "--trainer.limit_val_batches", 4)
    assert one.code == 0, one.err
    split = (
        "--trainer.strategy",
        "ddp",
        "--trainer.devices",
        "2",
        "--experiment",
        "two",
        "--trainer.limit_val_batches",
        "4",
    )
    done = subprocess.run(
        [sys.executable, "-m", "sft_lightning", *map(str, (*PROBE, *split))],
        env={**os.environ, "SFT_RUNS_DIR": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=240, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "two").iterdir()
    two = json.loads((run / "run.json").read_text())
    assert two["solved"] == one.run.record["solved"]
    for name, value in one.run.record["test"].items():
        assert two["test"][name] == pytest.approx(value, abs=1e-5), name
