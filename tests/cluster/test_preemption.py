"""On a real Slurm: a job that is preempted, however often and whenever, comes back by itself and ends as if nothing had been.

A job takes some seconds to be requeued and many to import, so all are submitted at once and each test waits for its own.
"""

import json
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_lightning.runs import Run, load
from tests.cluster.conftest import ROOT, Slurm
from tests.exactness.figures import note
from tests.survival.snapshots import difference, outcome
from tests.survival.test_ranks import launch
from tests.survival.zygote import Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PATIENCE = 1200.0  # seconds for a job to end, on a machine that others use too

# 100 samples, 20 a step in 2 micro-batches of 10: 60 steps.
FIT = (
    "fit", "--config", "experiments/digits/distill.yaml", "--trainer.max_epochs", 12, "--experiment", "x",
    "--trainer.check_val_every_n_epoch", 3, "--network.init_args.dropout", 0.2, "--model.init_args.ema_decay", 0.9,
    "--data.augment", "[crop]", "--model.init_args.lr_schedule", "cosine", "--trainer.accumulate_grad_batches", 2,
    "--trainer.log_every_n_steps", 2,
)  # fmt: skip
DDP = ("--trainer.strategy", "ddp")
HERE = ("--wandb", "disabled")  # it must not matter

SCRIPT = """#!/bin/bash
#SBATCH --job-name=preempted --requeue --ntasks-per-node=1
set -eu
cd {root}
export OMP_NUM_THREADS=1 HOME={home} SFT_RUNS_DIR={home}/runs
# Until the command's own handler stands, the signal is passed over: it would end the process.
srun --kill-on-bad-exit=1 bash -c 'trap "" USR1; exec "$@"' bash {command}
"""


def submit(
    slurm: Slurm, folder: Path, run_id: str, moments: Sequence[str], *more: str, options: Sequence[str] = ()
) -> str:
    """Submits a fit that is preempted at the given moments of its starts; returns the job's id. `run_id` is the shell's."""
    preempted = {"class_path": "tests.cluster.moments.Preempted", "init_args": {"moments": list(moments)}}
    config = folder / f"{len(slurm.jobs)}.yaml"
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [preempted]}}))
    fit = [sys.executable, "-m", "sft_lightning", *FIT, *more, "--config", config, "--ckpt_path", "last"]
    command = f"{shlex.join(map(str, fit))} --run_id {run_id}"
    return slurm.submit(SCRIPT.format(root=ROOT, home=folder, command=command), folder, *options)


def signal_during_imports(slurm: Slurm, job: str, run_id: str) -> None:
    """Preempts a job whose process has loaded torch's library, and goes on importing."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                ours = command[1:3] == [b"-m", b"sft_lightning"] and run_id.encode() in command
                if ours and "libtorch" in (process / "maps").read_text():
                    slurm.signal(job)
                    return
            except OSError:  # it has ended meanwhile
                continue
        time.sleep(0.01)
    pytest.fail(f"job {job} did not begin to import torch:\n{slurm.output(job)}")


def bring_forward(slurm: Slurm, job: str, run: Path) -> None:
    """Gives a job five minutes in place of an hour, once it runs and has been told of the hour."""
    until = time.monotonic() + PATIENCE
    while not (run / "run.json").is_file():
        assert time.monotonic() < until, f"job {job} does not begin:\n{slurm.output(job)}"
        time.sleep(0.2)
    done = slurm.client("scontrol", "update", f"jobid={job}", "timelimit=5")
    assert done.returncode == 0, f"the limit of job {job} cannot be moved: {done.stderr}"


SEED = 20
CHANCE = random.Random(SEED)
# A step of an epoch has two micro-batches, and so "step 30" is the last before the first validation.
MOMENTS = {
    "one process": [
        f"step {CHANCE.randint(2, 28)}", f"validation {CHANCE.randint(1, 2)}", f"step {CHANCE.randint(1, 8)} often",
    ],
    "two workers": ["setup 1", f"step {CHANCE.randint(3, 28)} twice", "save 1", "test 1"],
    "two nodes": [f"step {CHANCE.randint(2, 28)}", f"validation {CHANCE.randint(1, 2)}"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def jobs(slurm: Slurm, folder: Path) -> dict[str, str]:
    """The ids of all jobs, which run while the tests wait for one after another."""
    print(f"moments by seed {SEED}: {MOMENTS}")
    silent, stuck = ["step 5 silent"], ["setup 1"] * 4
    # A start has nearly three minutes, of which it needs a few seconds where nothing else runs here.
    limit = ["--time=4", "--export=ALL,SFT_STOP_BEFORE_S=75"]
    warned = ["--time=4", "--signal=USR1@60", "--export=ALL,SFT_STOP_BEFORE_S=1"]
    workers, nodes = ("--data.num_workers", "2"), ("--trainer.strategy", "ddp")
    parts = ("--trainer.strategy", "fsdp2")
    made = {
        "time limit": submit(slurm, folder, "limit", silent, options=limit),
        "Slurm's signal": submit(slurm, folder, "warned", silent, options=warned),
        # The first start is left out: it is preempted during the imports, from here.
        "one process": submit(slurm, folder, "early", ["", *MOMENTS["one process"]]),
        "two workers": submit(slurm, folder, "workers", MOMENTS["two workers"], *workers),
        "two nodes": submit(slurm, folder, "nodes", MOMENTS["two nodes"], *nodes, options=["--nodes=2"]),
        "late rank": submit(slurm, folder, "late", [], *nodes, "--import", "tests.cluster.late", options=["--nodes=2"]),
        "moved limit": submit(slurm, folder, "moved", silent, options=["--time=60", limit[1]]),
        "in parts": submit(slurm, folder, "parts", ["step 9"], *parts, options=["--nodes=2"]),
        "stuck": submit(slurm, folder, "stuck", stuck, options=["--export=ALL,SFT_MAX_IDLE_RETURNS=2"]),
        "array": submit(slurm, folder, "task-$SLURM_ARRAY_TASK_ID", ["step 7"], options=["--array=0-1"]),
    }
    signal_during_imports(slurm, made["one process"], "early")
    bring_forward(slurm, made["moved limit"], folder / "runs/x/moved")
    return made


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed fit here, without Slurm, comes to."""
    folder = tmp_path_factory.mktemp("whole")
    pid = zygote.spawn([*FIT, *HERE, "--run_id", "whole"], folder / "out", {"SFT_RUNS_DIR": str(folder / "runs")})
    assert zygote.wait(pid, PATIENCE) == 0, (folder / "out").read_text()
    return outcome(folder / "runs/x/whole")


def of_two(zygote: Zygote, folder: Path, strategy: str) -> dict[str, Any]:
    """The same with two processes."""
    two = ("--trainer.strategy", strategy, "--trainer.devices", 2, "--run_id", "whole")
    codes = [zygote.wait(pid, PATIENCE) for pid in launch(zygote, folder, *FIT, *HERE, *two)]
    assert codes == [0, 0], (folder / "out-0").read_text()
    return outcome(folder / "runs/x/whole")


@pytest.fixture(scope="module")
def whole_of_two(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return of_two(zygote, tmp_path_factory.mktemp("whole_of_two"), "ddp")


def check_same(slurm: Slurm, job: str, run: Path, whole: dict[str, Any], preemptions: int) -> None:
    """The job has come back so often, and is done; the run is as `whole` is, and one for W&B."""
    about = slurm.wait(job, timeout=PATIENCE)
    said = slurm.output(job)
    assert about["JobState"] == "COMPLETED", f"job {job} is {about['JobState']}:\n{said}"
    assert int(about["Restarts"]) == preemptions, f"job {job} was requeued {about['Restarts']} times:\n{said}"
    found = difference(whole, outcome(run))
    assert found is None, f"preempted {preemptions} times and come back, the run differs: {found}\n{said}"
    held = load(run).record["requeues"]
    assert held["count"] == preemptions, f"run.json does not count the requeues: {held}"
    assert held["steps"] == sorted(set(held["steps"])), f"a requeue without progress was not refused: {held}"
    check_wandb(load(run))
    note("preempted by a real Slurm and come back: values that differ", 0)


def check_wandb(run: Run) -> None:
    """Each start's part has the run's id, and together they hold what metrics.jsonl does."""
    tool = Path(sys.executable).with_name("wandb")
    parts = sorted((run.path / "wandb").glob("offline-run-*"))
    assert parts, "nothing was recorded for W&B"
    ids, losses = set(), {}
    for part in parts:
        shown = subprocess.run([tool, "leet", "inspect", "--json", part], capture_output=True, text=True, timeout=300)
        assert shown.returncode == 0, f"{part}: {shown.stderr}"
        records = [json.loads(line) for line in shown.stdout.splitlines()]
        ids |= {r["run"]["run_id"] for r in records if r["type"] == "run"}
        for row in [r["history"]["item"] for r in records if r["type"] == "history"]:
            if "train/loss" in row:
                step, loss = row["trainer/global_step"], row["train/loss"]
                assert losses.setdefault(step, loss) == loss, f"W&B was told two losses of step {step}"
    assert ids == {run.files.run_id}, f"for W&B the run is several: {ids}"
    steps, values = run.series("train/loss")
    assert losses == dict(zip(steps, values, strict=True)), "W&B's history is not the run's"


# ---- preempted ----


def test_a_run_preempted_during_imports_training_and_validation_is_the_undisturbed_one(
    slurm: Slurm, jobs: dict[str, str], folder: Path, whole: dict[str, Any]
) -> None:
    times = 1 + len(MOMENTS["one process"])
    check_same(slurm, jobs["one process"], folder / "runs/x/early", whole, times)


def test_a_run_with_loading_processes_preempted_while_it_is_set_up_saved_and_tested_is_the_undisturbed_one(
    slurm: Slurm, jobs: dict[str, str], folder: Path, whole: dict[str, Any]
) -> None:
    check_same(slurm, jobs["two workers"], folder / "runs/x/workers", whole, len(MOMENTS["two workers"]))


def test_a_run_on_two_nodes_preempted_twice_is_the_undisturbed_one(
    slurm: Slurm, jobs: dict[str, str], folder: Path, whole_of_two: dict[str, Any]
) -> None:
    check_same(slurm, jobs["two nodes"], folder / "runs/x/nodes", whole_of_two, len(MOMENTS["two nodes"]))
    assert load(folder / "runs/x/nodes").record["device"]["ranks"] == 2


def test_a_network_in_parts_on_two_nodes_preempted_is_the_undisturbed_one(
    slurm: Slurm,
    jobs: dict[str, str],
    folder: Path,
    zygote: Zygote,
    tmp_path: Path,
) -> None:
    whole = of_two(zygote, tmp_path, "fsdp2")
    check_same(slurm, jobs["in parts"], folder / "runs/x/parts", whole, 1)


def test_a_rank_that_is_preempted_while_another_waits_for_it_does_not_leave_it_waiting(
    slurm: Slurm, jobs: dict[str, str], folder: Path, whole_of_two: dict[str, Any]
) -> None:
    check_same(slurm, jobs["late rank"], folder / "runs/x/late", whole_of_two, 1)


@pytest.mark.parametrize("task", [0, 1])
def test_each_task_of_an_array_comes_back_to_its_own_run(
    slurm: Slurm, jobs: dict[str, str], folder: Path, whole: dict[str, Any], task: int
) -> None:
    check_same(slurm, f"{jobs['array']}_{task}", folder / f"runs/x/task-{task}", whole, 1)


def test_a_job_that_never_gets_to_training_is_not_requeued_for_ever(
    slurm: Slurm, jobs: dict[str, str], folder: Path
) -> None:
    about = slurm.wait(jobs["stuck"], timeout=PATIENCE)
    said = slurm.output(jobs["stuck"])
    assert (about["JobState"], about["ExitCode"], about["Restarts"]) == ("FAILED", "2:0", "2"), said
    assert said.count("is requeued and will resume (1 of 2 requeues in a row without a step)") == 1, said
    assert said.count("error: not requeued: it was requeued 2 times in a row without training a step") == 1, said
    assert load(folder / "runs/x/stuck").status == "interrupted"


# ---- the end of the job's time ----


@pytest.mark.parametrize(
    ("why", "run_id"), [("time limit", "limit"), ("Slurm's signal", "warned"), ("moved limit", "moved")]
)
def test_a_run_whose_time_is_nearly_up_stops_and_comes_back(
    slurm: Slurm, jobs: dict[str, str], folder: Path, whole: dict[str, Any], why: str, run_id: str
) -> None:
    """By a limit of four minutes alone, by `--signal=USR1@60`, and by a limit of an hour that was made five minutes."""
    check_same(slurm, jobs[why], folder / "runs/x" / run_id, whole, 1)
