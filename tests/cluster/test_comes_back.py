"""The whole way on a real Slurm, quickly: submitted, preempted, requeued, finished. More is in test_preemption.py."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from sft_lightning.cli.main import main
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


PREEMPTED_AT_ONCE = """#!/bin/bash
#SBATCH --requeue --array=0-1 --ntasks=1
cd {root} && exec {python} -c '
import sys
from sft_lightning.cluster.requeue import PREEMPTED, come_back
sys.exit(come_back(PREEMPTED, sys.argv[1:]))
' ablate --study_folder {study} --point p$SLURM_ARRAY_TASK_ID
"""


@pytest.mark.slow
def test_tasks_of_an_array_that_never_get_to_a_step_are_given_up_after_so_many_returns(
    slurm: Slurm, tmp_path: Path
) -> None:
    """Each is preempted as soon as it begins: p0 before there is a record, p1 with one of 20 steps."""
    (tmp_path / "p1").mkdir()
    held = {"schema": 1, "metrics": {}, "status": "interrupted", "steps": 20}
    (tmp_path / "p1/run.json").write_text(json.dumps(held))
    script = PREEMPTED_AT_ONCE.format(root=ROOT, python=sys.executable, study=tmp_path)
    job = slurm.submit(script, tmp_path, "--export=ALL,SFT_MAX_IDLE_RETURNS=2")
    for task, step in ((0, 0), (1, 20)):
        about = slurm.wait(f"{job}_{task}")
        said = slurm.output(f"{job}_{task}")  # both tasks write into one file
        assert (about["JobState"], about["ExitCode"]) == ("FAILED", "2:0"), said
        requeued = f"job {job}_{task} is requeued and will resume"
        assert said.count(requeued) == int(about["Restarts"]) == 2, said
        assert said.count(f"{requeued} (1 of 2 requeues in a row without a step)") == 1, said
        assert f"it was requeued 2 times in a row without training a step (step {step})" in said, said
    steps = json.loads((tmp_path / "p1/run.json").read_text())["requeues"]["steps"]
    assert steps == [20, 20], "what Slurm counts and what the run counts are two things"
