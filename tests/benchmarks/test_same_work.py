"""The speed benchmark with everything real, small: all arms of the MLP do the same work, and take their turns."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench.results import ROOT, read
from benchmarks.bench.workload import WORKLOADS


@pytest.mark.slow
def test_all_arms_have_the_same_losses_and_take_turns(tmp_path: Path) -> None:
    """In a process of its own: the command forks, and this one holds models."""
    command = [sys.executable, "-m", "benchmarks.run", "mlp", "--quick", "--one-thread", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SFT_RUNS_DIR": str(tmp_path / "runs")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    held = read(tmp_path)["mlp"]
    assert not held["not_run"] and not held["check"]["wrong"]
    assert {"raw", "raw_fused", "fabric", "bare", "usual", "hf", "python", "cli"} <= held["check"]["losses"].keys()
    assert max(held["check"]["difference"].values()) <= held["check"]["bound"]
    assert all(len(losses) == WORKLOADS["mlp"].check_steps for losses in held["check"]["losses"].values())
    arms = held["threads"]["1"]["arms"]
    assert arms.keys() == set(WORKLOADS["mlp"].arms)
    assert all(value > 0 for arm in arms.values() for value in arm["cpu"])
    assert "### Targets" in done.stdout and "CPU ms a step" in done.stdout
