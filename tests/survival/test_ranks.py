"""Two processes: where one fails all end, and why is said once; killed and begun again, they end bit-equal."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sft_lightning.runs import load
from tests.exactness.figures import note
from tests.refused import check_printed
from tests.survival.snapshots import difference, outcome
from tests.survival.zygote import ROOT, Zygote

FIT = (
    "fit", "--config", "experiments/digits/distill.yaml", "--trainer.max_epochs", 6, "--wandb", "disabled",
    "--trainer.check_val_every_n_epoch", 2, "--experiment", "x", "--trainer.strategy", "ddp", "--trainer.devices", 2,
    "--data.shots_per_class", 9, "--data.batch_size", 8, "--trainer.accumulate_grad_batches", 2, "--quiet", "true",
    "--network.init_args.dropout", 0.2, "--model.init_args.ema_decay", 0.9,
)  # fmt: skip
WITHIN = 60  # seconds for all to end


def faults(folder: Path, *each: dict[str, Any]) -> tuple[str, str]:
    callbacks = [{"class_path": "tests.survival.faults.Fault", "init_args": arguments} for arguments in each]
    path = folder / "fault.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return "--config", str(path)


def launch(zygote: Zygote, folder: Path, *arguments: object) -> list[int]:
    """Begins two ranks as torchrun does, which gives every launch the same name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        "SFT_RUNS_DIR": str(folder / "runs"),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "none",
        "SFT_LAUNCH": "none-29500-0",
    }
    return [
        zygote.spawn(arguments, folder / f"out-{rank}", {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]


def said(folder: Path) -> str:
    return "".join((folder / f"out-{rank}").read_text() for rank in (0, 1))


CASES = {
    "rank 1 raises": ({"what": "fail", "rank": 1}, "RuntimeError: this is a bug of one rank", 1),
    "rank 0 raises": ({"what": "fail", "rank": 0}, "RuntimeError: this is a bug of one rank", 1),
    "both raise": ({"what": "fail", "rank": -1}, "RuntimeError: this is a bug of one rank", 1),
    "rank 1 is killed": ({"what": "kill", "rank": 1}, "another rank: ", 2),
    "rank 0 is killed": ({"what": "kill", "rank": 0}, "another rank: ", 2),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("case", CASES)
def test_where_a_rank_fails_all_end_and_it_is_said_once(zygote: Zygote, tmp_path: Path, case: str) -> None:
    fault, words, code = CASES[case]
    began = time.monotonic()
    ranks = launch(zygote, tmp_path, *FIT, *faults(tmp_path, {"step": 5, **fault}), "--run_id", "failed")
    codes = [zygote.wait(pid, WITHIN) for pid in ranks]
    took, output = time.monotonic() - began, said(tmp_path)
    assert -1000 not in codes, f"{case}: not all had ended after {WITHIN} s:\n{output}"
    expected = [-signal.SIGKILL if fault["what"] == "kill" and r == fault["rank"] else code for r in (0, 1)]
    assert codes == expected, f"{case}: they ended with {codes}:\n{output}"
    lines = [line for line in output.splitlines() if words in line]
    assert len(lines) == 1, f"{case}: said {len(lines)} times:\n{output}"
    assert output.count("Traceback (most recent call last)") == (1 if code == 1 else 0), output
    run = load(tmp_path / "runs/x/failed")
    if case != "rank 0 is killed":  # who keeps the record is dead
        assert run.status == "failed"
        assert words in run.record["reason"]
    note("a rank failed: seconds until all had ended", round(took, 1), "s")


def test_a_mistake_of_the_users_that_one_rank_meets_first_is_said_once(zygote: Zygote, tmp_path: Path) -> None:
    fault = faults(tmp_path, {"what": "refuse", "rank": 0, "step": 0})
    ranks = launch(zygote, tmp_path, *FIT, *fault, "--run_id", "refused")
    codes = [zygote.wait(pid, WITHIN) for pid in ranks]
    assert codes == [2, 2], said(tmp_path)
    check_printed(said(tmp_path), "data", "socket.png")


@pytest.mark.slow
def test_what_failed_in_an_earlier_launch_is_not_taken_for_a_failure_of_this_one(
    zygote: Zygote, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    fault = faults(tmp_path, {"what": "fail", "rank": 1, "step": 7})
    again = (*FIT, "--run_id", "again", "--ckpt_path", "last")
    assert [zygote.wait(pid) for pid in launch(zygote, tmp_path, *again, *fault)] == [1, 1], said(tmp_path)
    slow = faults(tmp_path, {"what": "pause", "rank": 1, "step": 9, "where": "18"})
    assert [zygote.wait(pid) for pid in launch(zygote, tmp_path, *again, *slow)] == [0, 0], said(tmp_path)
    assert difference(undisturbed, outcome(tmp_path / "runs/x/again")) is None


@pytest.mark.slow
def test_a_rank_that_hangs_does_not_outlive_one_that_failed(zygote: Zygote, tmp_path: Path) -> None:
    """Rank 1 sleeps where rank 0 fails: it would wait for ten minutes."""
    each = ({"what": "sleep", "rank": 1, "step": 5, "where": str(tmp_path / "mark")}, {"what": "fail", "step": 5})
    began = time.monotonic()
    ranks = launch(zygote, tmp_path, *FIT, *faults(tmp_path, *each), "--run_id", "failed")
    codes = [zygote.wait(pid, WITHIN) for pid in ranks]
    assert codes == [1, 1], f"they ended with {codes}:\n{said(tmp_path)}"
    note("a rank failed: seconds until all had ended", round(time.monotonic() - began, 1), "s")


@pytest.fixture(scope="module")
def undisturbed(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two")
    codes = [zygote.wait(pid) for pid in launch(zygote, folder, *FIT, "--run_id", "whole")]
    assert codes == [0, 0], said(folder)
    return outcome(folder / "runs/x/whole")


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_killed_and_begun_again_end_as_if_nothing_had_been(
    zygote: Zygote, undisturbed: dict[str, Any], tmp_path: Path, times: int, workers: int
) -> None:
    command = (
        *FIT,
        "--run_id",
        "killed",
        "--save_every_n_steps",
        1,
        "--ckpt_path",
        "last",
        "--data.num_workers",
        workers,
    )
    run, kills = tmp_path / "runs/x/killed", 0
    for number in range(times):
        ranks = launch(zygote, tmp_path, *command)
        before = (run / "checkpoints/last.ckpt").stat().st_mtime_ns if (run / "checkpoints/last.ckpt").is_file() else 0
        until = time.monotonic() + 30
        while time.monotonic() < until:  # until this launch has saved something more
            last = run / "checkpoints/last.ckpt"
            if last.is_file() and last.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
        time.sleep(0.03 * (number % 5))
        for pid in ranks:
            try:
                os.kill(pid, signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                continue
        for pid in ranks:
            zygote.wait(pid)
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    codes = [zygote.wait(pid) for pid in launch(zygote, tmp_path, *command)]
    assert codes == [0, 0], said(tmp_path)
    assert kills, "nothing was killed"
    found = difference(undisturbed, outcome(run))
    assert found is None, f"after {times} kills two processes' run differs: {found}"
    for _ in range(times):
        note("two processes killed and resumed: values that differ", 0)


def test_a_signal_to_one_rank_stops_both_and_the_resumed_run_is_the_same(
    zygote: Zygote, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    callback = {"class_path": "tests.survival.stops.SignalAt", "init_args": {"at": 7}}
    (tmp_path / "stop.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    stopped = launch(zygote, tmp_path, *FIT, "--config", tmp_path / "stop.yaml", "--run_id", "stopped")
    assert [zygote.wait(pid) for pid in stopped] == [143, 0], said(tmp_path)
    assert load(tmp_path / "runs/x/stopped").status == "interrupted"
    again = launch(zygote, tmp_path, *FIT, "--run_id", "stopped", "--ckpt_path", "last")
    assert [zygote.wait(pid) for pid in again] == [0, 0], said(tmp_path)
    assert difference(undisturbed, outcome(tmp_path / "runs/x/stopped")) is None


@pytest.mark.slow
@pytest.mark.parametrize(("what", "code"), [("fail", 1), ("kill", 2)])
def test_where_a_rank_that_lightning_started_fails_all_end(tmp_path: Path, what: str, code: int) -> None:
    command = [sys.executable, "-m", "sft_lightning", *map(str, FIT)]
    process = subprocess.Popen(
        [*command, *faults(tmp_path, {"what": what, "rank": 1, "step": 5}), "--run_id", "failed"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SFT_RUNS_DIR": str(tmp_path / "runs")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
            left = True
        except ProcessLookupError:
            left = False
    assert process.returncode == code, output
    words = "this is a bug of one rank" if what == "fail" else "was killed (SIGKILL)"
    assert sum(words in line for line in output.splitlines() if "raise" not in line) == 1, output
    assert not left or what == "fail", "a process is left over"
    assert words in load(tmp_path / "runs/x/failed").record["reason"]
