"""A study as a job array, on a real Slurm."""

import csv
import json
import os
import re
import shlex
import sys

import pytest

from sft_lightning.cli.main import main
from tests.ablation.test_studies import ARMS, BASE, write
from tests.cluster.conftest import ROOT, slurm  # noqa: F401  a fixture
from tests.refused import check_printed


def test_without_slurm_it_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = write(tmp_path / "none.yaml", seeds=1)
    assert main(["ablate", "--config", str(file), "--runs_dir", str(tmp_path), "--launcher", "slurm"]) == 2
    check_printed(capsys.readouterr().err, "--launcher slurm", "sbatch")


def test_a_point_that_is_none_is_refused(tmp_path, capsys):
    assert main(["ablate", "--study_folder", str(tmp_path), "--point", "abc"]) == 2
    check_printed(capsys.readouterr().err, "--point", "'abc'", tmp_path)


@pytest.mark.slow
def test_an_array_and_its_collecting_job_end_as_the_study_does_here(slurm, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # goes with the jobs
    arms = {"plain": ARMS["plain"]}
    for name, launcher in (("here", "local"), ("there", "slurm")):
        file = write(tmp_path / "study.yaml", study=name, arms=arms, seeds=1)
        where = ["--runs_dir", str(tmp_path / "runs"), "--workers", "2", "--threads", "1"]
        assert main(["ablate", "--config", str(file), *where, "--launcher", launcher]) == 0
    said = capsys.readouterr().out
    slurm.jobs += re.findall(r"^(?:array  |collect) job (\d+):", said, re.MULTILINE)
    assert len(slurm.jobs) >= 2, said
    slurm.wait(slurm.jobs[-1], timeout=500)
    record = tmp_path / "runs" / "there" / "study.json"
    logs = "".join(f.read_text() for f in sorted(record.parent.glob("logs/slurm-*")))
    assert record.is_file(), logs
    assert json.loads(record.read_text())["status"] == "finished", logs

    def measured(name):
        with (tmp_path / "runs" / name / "points.csv").open() as table:
            return [{k: v for k, v in row.items() if k != "point"} for row in csv.DictReader(table)]

    assert measured("there") == measured("here")
    assert os.path.isfile(tmp_path / "runs" / "there" / "report.html")


IN_ONE_JOB = """#!/bin/bash
#SBATCH --job-name=study --requeue --ntasks-per-node=1
set -eu
cd {root}
srun --kill-on-bad-exit=1 bash -c 'trap "" USR1; exec "$@"' task {command}
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["an array", "one job"])
def test_points_of_two_processes_that_are_preempted_bring_their_job_back_once(
    slurm,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
    place,
):
    """Each point is a command of its own, of two processes; that or the study is what Slurm started, and asks."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    preempted = {"class_path": "tests.cluster.moments.Preempted", "init_args": {"moments": ["step 3"]}}
    two = {"devices": 2, "strategy": "ddp", "callbacks": [preempted]}
    base = {**BASE, "trainer": {**BASE["trainer"], **two}}
    file = write(tmp_path / "two.yaml", base=base, arms={"plain": {}}, seeds=1)
    command = [
        "ablate",
        "--config",
        str(file),
        "--runs_dir",
        str(tmp_path / "runs"),
        "--workers",
        "1",
        "--threads",
        "1",
    ]
    if place == "an array":
        assert main([*command, "--launcher", "slurm"]) == 0
        array, last = re.findall(r"^(?:array  |collect) job (\d+):", capsys.readouterr().out, re.MULTILINE)
        slurm.jobs += [array, last]
        job = f"{array}_0"
    else:
        whole = shlex.join([sys.executable, "-m", "sft_lightning", *command])
        job = last = slurm.submit(IN_ONE_JOB.format(root=ROOT, command=whole), tmp_path)
    about = slurm.wait(job, timeout=500)
    folder = tmp_path / "runs" / "two"
    logs = slurm.output(job) + "".join(f.read_text() for f in sorted(folder.glob("logs/*.log")))
    assert about["JobState"] == "COMPLETED", f"job {job} is {about['JobState']}:\n{logs}"
    assert about["Restarts"] == "1", f"it was requeued {about['Restarts']} times:\n{logs}"
    attempts = [json.loads(f.read_text())["fit"]["attempts"] for f in folder.glob("logs/*.json")]
    assert attempts == [2], f"the job was requeued before it was noted how its point had ended:\n{logs}"
    slurm.wait(last, timeout=500)
    assert json.loads((folder / "study.json").read_text())["status"] == "finished", logs
    (record,) = (json.loads(f.read_text()) for f in folder.glob("*/run.json"))
    assert (record["status"], record["resumed"], record["device"]["ranks"]) == ("finished", 1, 2), logs
