"""A study as a job array, on a real Slurm."""

import csv
import json
import os
import re

import pytest

from sft_lightning.__main__ import main
from tests.ablation.test_studies import ARMS, write
from tests.cluster.conftest import slurm  # noqa: F401  a fixture


def test_without_slurm_it_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    file = write(tmp_path / "none.yaml", seeds=1)
    assert main(["ablate", "--config", str(file), "--runs_dir", str(tmp_path), "--launcher", "slurm"]) == 2
    assert "there is no sbatch here" in capsys.readouterr().err


def test_a_point_that_is_none_is_refused(tmp_path, capsys):
    assert main(["ablate", "--study_folder", str(tmp_path), "--point", "abc"]) == 2
    assert "has no point 'abc'" in capsys.readouterr().err


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
