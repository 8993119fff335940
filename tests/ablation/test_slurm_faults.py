"""24 points as an array on a real Slurm, through what happens to arrays: killed tasks, a drained node, a new controller."""

import csv
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft_lightning.cli.main import main
from tests.ablation.test_studies import BASE, write
from tests.cluster.conftest import CONTROLLER, Slurm, slurm  # noqa: F401  a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ARMS = {
    "plain": {"tune": {"model.lr": [0.0003, 0.001, 0.003, 0.01, 0.02, 0.03]}},
    "distill": {
        "set": {"model.class_path": "DistillSFT"},
        "tune": {"model.anchor_weight": [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]},
    },
}
PATIENCE = 900.0  # seconds for the array, on a machine that others use too


def restart_controller(made: Slurm) -> None:
    """Kills slurmctld without a word, and starts it again. Jobs that run do not know."""
    pid = int(CONTROLLER.read_text())
    os.kill(pid, signal.SIGKILL)
    until = time.monotonic() + 60
    while made.client("scontrol", "ping", timeout=120).stdout.count(" UP"):
        assert time.monotonic() < until, "slurmctld was killed and answers yet"
        time.sleep(0.2)
    CONTROLLER.unlink(missing_ok=True)
    started = subprocess.run(["slurmctld"], capture_output=True, text=True, close_fds=True)
    assert started.returncode == 0, f"slurmctld does not start again: {started.stderr}"
    while " UP" not in made.client("scontrol", "ping", timeout=120).stdout:
        assert time.monotonic() < until, "slurmctld was started again and does not answer"
        time.sleep(0.2)


@pytest.fixture
def drained(slurm: Slurm) -> Iterator[str]:  # noqa: F811
    """A node's name, for the test to drain; resumed after it."""
    yield "node2"
    slurm.client("scontrol", "update", "nodename=node2", "state=resume")


def processes_of(point: str) -> list[int]:
    """Those that carry a point out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if words[1:3] == [b"-m", b"sft_lightning"] and point.encode() in words:
            found.append(int(process.name))
    return found


def wait_until(what: str, true) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.05)


def test_24_points_are_there_once_each_whatever_befalls_their_jobs(
    slurm: Slurm,  # noqa: F811
    drained: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not slurm.is_ours:
        pytest.skip("the Slurm that answers here is not ours to restart")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # goes with the jobs
    base = {**BASE, "trainer": {**BASE["trainer"], "max_epochs": 4, "check_val_every_n_epoch": 2}}
    runs = tmp_path / "runs"

    def ablate(name: str, launcher: str) -> str:
        file = write(tmp_path / "study.yaml", study=name, base=base, arms=ARMS)
        where = ["--runs_dir", str(runs), "--workers", "2", "--threads", "1"]
        assert main(["ablate", "--config", str(file), *where, "--launcher", launcher]) == 0
        said = capsys.readouterr().out
        slurm.jobs += re.findall(r"^(?:array  |collect) job (\d+):", said, re.MULTILINE)
        return said

    ablate("here", "local")
    ablate("there", "slurm")
    folder = runs / "there"
    (first,) = json.loads((folder / "slurm/jobs.json").read_text())
    points, array = first["points"], first["array"]
    assert len(set(points)) == 24

    # One task is killed while it imports, one while it trains, and one is cancelled; the others know nothing of it.
    wait_until("the first point's process", lambda: processes_of(points[0]))
    for pid in processes_of(points[0]):
        os.kill(pid, signal.SIGKILL)
    wait_until("the second point's run", lambda: (folder / points[1] / "run.json").is_file())
    for pid in processes_of(points[1]):
        os.kill(pid, signal.SIGKILL)
    wait_until("the third point's process", lambda: processes_of(points[2]))
    slurm.client("scancel", f"{array}_2")
    done = slurm.client("scontrol", "update", f"nodename={drained}", "state=drain", "reason=test")
    assert done.returncode == 0, f"{drained} cannot be drained: {done.stderr}"
    for task in range(3):
        slurm.wait(f"{array}_{task}")
    finished = {p for p in points[:3] if json.loads(read(folder / p / "run.json")).get("status") == "finished"}
    assert not finished, f"{finished} were to be killed, and have finished"

    shown = status(folder, capsys)
    assert [shown.count(p) for p in points[:3]] == [1, 1, 1], shown
    assert len(re.findall(rf"\b{array}_\d+\b", shown)) >= 3 and shown.count("lost") >= 2 and "pending" in shown, shown
    time.sleep(10)  # it writes down now and then what has ended; what it forgets it begins again by itself
    restart_controller(slurm)

    # The same command, while the array still runs, asks for what was lost and for nothing else.
    said = ablate("there", "slurm")
    _, second = json.loads((folder / "slurm/jobs.json").read_text())
    others = set(second["points"]) - set(points[:3])
    assert second["points"], f"nothing was submitted for the points whose jobs were killed:\n{said}"
    assert not others, f"of {others} a job runs or waits, and they were submitted again:\n{said}"
    assert slurm.about(first["collect"])["JobState"] == "CANCELLED", "two collecting jobs would do the same work"
    again = ablate("there", "slurm")
    assert "nothing was submitted" in again, f"what is queued was submitted once more:\n{again}"

    slurm.wait(second["collect"], timeout=PATIENCE)
    logs = "".join(f.read_text() for f in sorted(folder.glob("logs/slurm-*")))
    assert json.loads((folder / "study.json").read_text())["status"] == "finished", logs
    assert (folder / "report.html").is_file(), f"there is no comparison:\n{logs}"

    # Each point once: one row, one run, of two that were killed one attempt that got to its end, and of all others too.
    assert sorted(f.parent.name for f in folder.glob("*/run.json")) == sorted(points)
    assert measured(folder) == measured(runs / "here"), "the study is not the one that nothing befell"
    for number, point in enumerate(points):
        attempts = json.loads((folder / f"logs/{point}.json").read_text())["fit"]["attempts"]
        assert attempts == 1 or (number == 2 and attempts == 2), f"point {number} was fitted {attempts} times:\n{logs}"
    shown = status(folder, capsys)
    assert "24 finished" in shown, shown


def read(path: Path) -> str:
    return path.read_text() if path.is_file() else "{}"


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["study", "status", str(folder)]) == 0
    return capsys.readouterr().out


def measured(folder: Path) -> list[dict[str, str]]:
    with (folder / "points.csv").open() as table:
        return [{k: v for k, v in row.items() if k != "point"} for row in csv.DictReader(table)]
