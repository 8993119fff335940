"""SIGTERM and Ctrl-C: the run stops at a step's end, saves, says so, and goes on as if nothing had been."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sft_lightning.runs import load
from tests.cli.conftest import ROOT, Command

# 100 samples, 20 a step in 2 micro-batches of 10.
FIT = (
    "fit", "--config", "experiments/digits/distill.yaml", "--trainer.max_epochs", "100000",
    "--trainer.accumulate_grad_batches", "2", "--test_after_fit", "false",
)  # fmt: skip
DISABLED = ("--wandb", "disabled")


def without_wandb() -> dict[str, str]:
    """The environment without what W&B leaves in it for child processes, so that the command starts its own service."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "_WANDB"))}


def descendants(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [pid]
    for parent in found:
        found += [p for p, pp in pairs if pp == parent]
    return found[1:]


@pytest.mark.parametrize(
    ("asked", "code", "wandb"),
    [(signal.SIGTERM, 143, "offline"), pytest.param(signal.SIGINT, 130, "disabled", marks=pytest.mark.slow)],
    ids=["SIGTERM to all processes, as Slurm sends it", "Ctrl-C"],
)
def test_a_signal_stops_the_run_with_everything_saved(
    asked: signal.Signals, code: int, wandb: str, command: Command, tmp_path: Path
) -> None:
    path = tmp_path / "runs/digits-distill/stopped"
    process = subprocess.Popen(
        [sys.executable, "-m", "sft_lightning", *FIT, "--run_id", "stopped", "--wandb", wandb],
        cwd=ROOT,
        env={**without_wandb(), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 120
        while not ((path / "metrics.jsonl").is_file() and (path / "metrics.jsonl").read_text().count("\n") > 3):
            assert process.poll() is None, f"it ended before: {process.communicate()}"
            assert time.monotonic() < until, "it logged nothing in two minutes"
            time.sleep(0.05)
        helpers = descendants(process.pid)
        assert bool(helpers) is (wandb == "offline")
        began = time.monotonic()
        for pid in [*helpers, process.pid]:
            os.kill(pid, asked)
        _, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == code, err
    assert time.monotonic() - began < 30
    assert "Traceback" not in err, err

    stopped = load(path)
    assert stopped.status == "interrupted"
    assert asked.name in stopped.record["reason"]
    saved = torch.load(stopped.files.last, weights_only=True)
    done = saved["global_step"]
    assert done == stopped.record["steps"] > 0
    assert not [p for p in path.rglob("*") if p.name.endswith(".tmp")]
    steps = [row["step"] for row in stopped.history()]
    assert steps == sorted(set(steps))
    assert steps[-1] <= done

    more = done + 13
    resumed = command("fit", "--resume", path, "--trainer.max_steps", more, *DISABLED)
    assert resumed.code == 0, resumed.err
    again = load(path)
    assert again.status == "finished"
    assert again.record["steps"] == more
    assert "reason" not in again.record, "a finished run still says why it was interrupted"
    undisturbed = command(*FIT, "--run_id", "whole", "--trainer.max_steps", more, *DISABLED)
    assert undisturbed.code == 0, undisturbed.err
    weights = [torch.load(r.files.last, weights_only=True)["state_dict"] for r in (again, undisturbed.run)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0]), "the interruption changed the weights"
    assert [r["step"] for r in again.history()] == [r["step"] for r in undisturbed.run.history()]


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both(tmp_path: Path) -> None:
    path = tmp_path / "runs/digits-distill/stopped"
    two = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "sft_lightning", *FIT, *DISABLED, "--run_id", "stopped", *two],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SFT_RUNS_DIR": str(tmp_path / "runs")},
        stderr=subprocess.PIPE,
        text=True,
    )
    others: list[int] = []
    try:
        until = time.monotonic() + 200
        while not ((path / "metrics.jsonl").is_file() and (path / "metrics.jsonl").read_text().count("\n") > 3):
            assert process.poll() is None, f"it ended before: {process.communicate()}"
            assert time.monotonic() < until, "it logged nothing in time"
            time.sleep(0.05)
        others = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        for pid in [process.pid, *others] if process.poll() is None else []:
            os.kill(pid, signal.SIGKILL)
    assert process.returncode == 143, err
    stopped = load(path)
    assert stopped.status == "interrupted"
    assert torch.load(stopped.files.last, weights_only=True)["global_step"] == stopped.record["steps"]


@pytest.mark.slow
def test_a_run_that_waits_for_another_node_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0}
    nodes = ("--trainer.strategy", "ddp", "--trainer.devices", "1", "--trainer.num_nodes", "2")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sft_lightning",
            *FIT,
            *DISABLED,
            "--run_id",
            "alone",
            "--trainer.accelerator",
            "cpu",
            *nodes,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            **{k: str(v) for k, v in torchrun.items()},
            "GROUP_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "TORCHELASTIC_RUN_ID": "one",
            "OMP_NUM_THREADS": "1",
            "SFT_RUNS_DIR": str(tmp_path / "runs"),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until = time.monotonic() + 200
        while not listening(port):
            assert process.poll() is None, f"it ended before: {process.communicate()}"
            assert time.monotonic() < until, "it never waited"
            time.sleep(0.1)
        time.sleep(2)  # it has begun to wait
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert "Traceback" not in err, err


def listening(port: int) -> bool:
    """Whether a process of this machine listens on a port."""
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0
