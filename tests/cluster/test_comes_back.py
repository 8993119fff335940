"""The whole way on a real Slurm, quickly: submitted, preempted, requeued, finished. More is in test_preemption.py."""

import json
from pathlib import Path

import pytest
import yaml

from sft_lightning.__main__ import main
from tests.cluster.conftest import ROOT, Slurm


def test_a_submitted_fit_that_is_preempted_comes_back_and_finishes(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not slurm.is_ours:
        pytest.skip("a Slurm answers here that scripts/slurm-cluster did not start: its queue may be long")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # goes with the job
    monkeypatch.chdir(ROOT)
    preempted = {"class_path": "tests.cluster.moments.Preempted", "init_args": {"moments": ["step 3"]}}
    (tmp_path / "fit.yaml").write_text(
        yaml.safe_dump({"trainer": {"callbacks": [preempted], "max_epochs": 2, "accelerator": "cpu"}})
    )
    where = ["--runs_dir", str(tmp_path / "runs"), "--experiment", "e", "--run_id", "r", "--time", "10"]
    digits = str(ROOT / "experiments/digits/plain.yaml")
    more = ["--config", str(tmp_path / "fit.yaml"), "--wandb", "disabled"]
    assert main(["submit", "--config", digits, *where, "--", *more]) == 0
    job = capsys.readouterr().out.split()[1]
    slurm.jobs.append(job)
    about = slurm.wait(job)
    assert about["JobState"] == "COMPLETED", f"job {job} is {about['JobState']}:\n{slurm.output(job)}"
    assert about["Restarts"] == "1", f"the job was requeued {about['Restarts']} times:\n{slurm.output(job)}"
    record = json.loads((tmp_path / "runs/e/r/run.json").read_text())
    assert (record["status"], record["requeues"]["steps"]) == ("finished", [3]), slurm.output(job)
