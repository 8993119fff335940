"""`study status`: every point with what has become of it, told from its files and one look at the queue."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sft_lightning.ablation.jobs import StudyJobs, Submission
from sft_lightning.ablation.study_dir import StudyDir
from sft_lightning.cli.main import main
from tests.refused import check_printed

POINTS = ["done", "works", "broke", "waits", "starts", "asked", "gone", "killed", "unsent"]
HOLD = """
import sys, time
from pathlib import Path
from sft_lightning.runs.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.take()
print("held", flush=True)
time.sleep(600)
"""


def squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str, code: int = 0) -> Path:
    """A stand-in that prints `lines`, and counts how often it is asked in the file that is returned."""
    (folder / "bin").mkdir(exist_ok=True)
    said = "\n".join(lines)
    script = f"#!/bin/sh\necho \"$@\" >> {folder}/asked\n/bin/cat <<'TEXT'\n{said}\nTEXT\nexit {code}\n"
    (folder / "bin/squeue").write_text(script)
    (folder / "bin/squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return folder / "asked"


@pytest.fixture
def study(tmp_path: Path):
    """A folder with a point in every state; `works` is at work in another process."""
    folder = StudyDir(tmp_path / "mine")
    folder.make()
    rows = [f"{name},plain,0.0{i},0,0,queued," for i, name in enumerate(POINTS, 1)]
    folder.points.write_text("\n".join(["point,arm,lr,seed,selected,status,steps", *rows]) + "\n")

    def run(point: str, **content) -> None:
        folder.run(point).path.mkdir()
        folder.run(point).record.write_text(json.dumps({"metrics": {}, **content}))

    run("done", status="finished", steps=30)
    run("works", status="running", steps=4)
    run("asked", status="interrupted", steps=12)
    run("killed", status="running", steps=7)
    folder.add_note("broke", "fit", exit=1, reason="RuntimeError: no such thing")
    folder.add_note("asked", "fit", exit=143, reason="")
    (folder.path / "slurm").mkdir()
    jobs = StudyJobs(folder)
    jobs.note(Submission("120", POINTS[:-1], "121"))
    jobs.note(Submission("130", ["starts"], "131"))
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.run("works").path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield folder
    process.kill()
    process.communicate()


def table(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, list[str]], str]:
    """({point: its row's cells}, the last line)"""
    lines = capsys.readouterr().out.splitlines()
    rows = [[c.strip() for c in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    return {row[0]: row[1:] for row in rows}, lines[-1]


def test_every_point_is_shown_with_its_state_and_its_job(study, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    mine = ("120_3|PENDING|Priority|ablate-mine", "131|PENDING|Dependency|ablate-mine-collect")
    others = ("120_6|RUNNING|None|another", "99|RUNNING|None|ablate-yours")  # after ids have begun anew
    asked = squeue(tmp_path, monkeypatch, *mine, *others, "130_0|RUNNING|None|ablate-mine")
    assert main(["study", "status", str(study.path), "--all"]) == 0
    rows, last = table(capsys)
    assert list(rows) == POINTS, "each point once, in the order of points.csv"
    assert rows == {
        "done": ["plain lr 0.01 seed 0", "finished", "120_0", ""],
        "works": ["plain lr 0.02 seed 0", "running", "120_1", ""],
        "broke": ["plain lr 0.03 seed 0", "failed", "120_2", "RuntimeError: no such thing"],
        "waits": ["plain lr 0.04 seed 0", "pending", "120_3", "Priority"],
        "starts": ["plain lr 0.05 seed 0", "running", "130_0", ""],
        "asked": ["plain lr 0.06 seed 0", "stopped", "120_5", "begun, at step 12"],
        "gone": ["plain lr 0.07 seed 0", "lost", "120_6", "its job is over; logs/slurm-120_6.out"],
        "killed": ["plain lr 0.08 seed 0", "lost", "120_7", "its job is over; logs/slurm-120_7.out"],
        "unsent": ["plain lr 0.09 seed 0", "not submitted", "–", ""],
    }
    assert last == (
        "1 finished, 2 running, 1 pending, 1 not submitted, 1 stopped, 1 failed, 2 lost; "
        f"collecting job 131: pending (Dependency); {study.path}"
    )
    assert len(asked.read_text().splitlines()) == 1, "the queue is asked once for all points"
    assert main(["study", "status", str(study.path)]) == 0
    assert list(table(capsys)[0]) == POINTS[1:], "finished points are shown by --all alone"


def test_where_slurm_does_not_answer_nothing_is_called_lost(study, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    squeue(tmp_path, monkeypatch, code=1)
    assert main(["study", "status", str(study.path)]) == 0
    rows, last = table(capsys)
    assert [rows[p][1] for p in ("waits", "gone", "killed")] == ["submitted"] * 3
    assert "lost" not in last and "Slurm does not answer" in last


def test_of_a_study_that_was_never_submitted_nobody_is_asked(study, tmp_path, monkeypatch, capsys) -> None:
    (study.path / "slurm/jobs.json").unlink()
    asked = squeue(tmp_path, monkeypatch)
    assert main(["study", "status", str(study.path)]) == 0
    rows, last = table(capsys)
    assert rows["waits"][1] == "queued" and rows["asked"][1] == "interrupted"
    assert not asked.exists() and last.endswith(f"; {study.path}") and "collecting" not in last


def test_a_folder_that_is_no_studys_is_refused(tmp_path, capsys) -> None:
    assert main(["study", "status", str(tmp_path)]) == 2
    check_printed(capsys.readouterr().err, "study", tmp_path)
