"""Each script that we ship or write, once on a real Slurm: slurm/*.sbatch, staged data, a container, W&B sent afterwards.

A job takes some seconds to begin and many to import, so all are submitted at once and each test waits for its own.
"""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from sft_lightning.cli.main import main
from sft_lightning.runs import load
from tests.cluster.conftest import ROOT, Slurm
from tests.survival.test_ranks import launch
from tests.survival.zygote import Zygote

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PATIENCE = 1200.0  # seconds for a job to end, on a machine that others use too
DIGITS = "experiments/digits/plain.yaml"
SHORT = ("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1", "--wandb", "disabled")

BOX = """#!/bin/bash
# A container's runtime, as far as Slurm can tell: inside are all programs but Slurm's own.
inside={folder}/inside-$SLURM_JOB_ID-$SLURM_RESTART_COUNT
mkdir -p $inside && ln -sf /usr/bin/* /bin/* $inside && rm -f $inside/{{scontrol,sbatch,squeue}}
PATH=$inside exec "$@"
"""
COPY = """#!/bin/bash
# Notes which node copies what. All nodes are one machine here, and each shall begin before another's copy is there.
echo "$SLURMD_NODENAME $2" >> {folder}/copied
sleep 3
exec {real} "$@"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scripts")


@pytest.fixture(scope="module")
def images(folder: Path) -> Path:
    """45 digits as files, and an experiment on them."""
    pixels, targets = load_digits(return_X_y=True)
    for i in np.flatnonzero(targets[:150] < 3):
        file = folder / "images" / str(targets[i]) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(pixels[i].reshape(8, 8) * 15)).save(file)
    data = {"root": str(folder / "images"), "val_fraction": 0.25, "batch_size": 8}
    content = {
        "seed_everything": 0,
        "model": {"class_path": "PlainSFT", "init_args": {"lr": 0.001}},
        "network": {"class_path": "MLP", "init_args": {"in_features": 192, "hidden": [16]}},
        "data": {"class_path": "ImageFolder", "init_args": data},
        "trainer": {"max_epochs": 4, "check_val_every_n_epoch": 2, "accelerator": "cpu", "strategy": "ddp"},
        "test_after_fit": True,
        "wandb": "disabled",
    }
    (folder / "images.yaml").write_text(yaml.safe_dump(content))
    return folder / "images.yaml"


@pytest.fixture(scope="module")
def jobs(slurm: Slurm, folder: Path, images: Path) -> dict[str, str]:
    """The ids of all jobs, which run while the tests wait for one after another."""
    with pytest.MonkeyPatch.context() as environment:
        environment.chdir(ROOT)
        for name, value in {
            "OMP_NUM_THREADS": "1",
            "PYTHON": sys.executable,
            "SFT_RUNS_DIR": str(folder / "runs"),
        }.items():
            environment.setenv(name, value)
        return {
            "fit": shipped(slurm, folder, "fit", "--run_id", "mine"),
            "ddp": shipped(slurm, folder, "ddp", "--trainer.strategy", "ddp"),
            "ablate": shipped(slurm, folder, "ablate", options=("--array=3-4",)),
            "staged": staged(slurm, folder, images),
            "container": in_a_container(slurm, folder),
            "offline": sent_afterwards(slurm, folder),
        }


def shipped(slurm: Slurm, folder: Path, name: str, *more: str, options: tuple[str, ...] = ()) -> str:
    """Submits slurm/NAME.sbatch as its header says."""
    output = f"--output={folder}/{name}-%A.out"
    done = slurm.client(
        "sbatch", "--parsable", output, *options, f"slurm/{name}.sbatch", "--config", DIGITS, *SHORT, *more
    )
    assert done.returncode == 0, f"sbatch refuses slurm/{name}.sbatch: {done.stderr}"
    slurm.jobs.append(done.stdout.strip())
    return slurm.jobs[-1]


def submit(slurm: Slurm, folder: Path, name: str, profile: dict[str, Any], *options: object) -> str:
    """Submits a run called `name` by our own command, with a profile."""
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(profile))
    where = ["--runs_dir", folder / "runs", "--experiment", "e", "--run_id", name, "--time", "10"]
    assert main(["submit", "--profile", str(folder / f"{name}.yaml"), *map(str, [*where, *options])]) == 0
    known = set(slurm.jobs)
    found = slurm.client("squeue", "--noheader", "--format=%A", "--sort=i").stdout.split()
    slurm.jobs += [job for job in found if job not in known]
    return next(job for job in found if f"/{name}-{job}.out" in slurm.about(job)["StdOut"])


def staged(slurm: Slurm, folder: Path, images: Path) -> str:
    """On two nodes, whose copies are noted."""
    (folder / "bin").mkdir()
    (folder / "bin/cp").write_text(COPY.format(folder=folder, real="/bin/cp"))
    (folder / "bin/cp").chmod(0o755)
    profile = {"scratch": f"{folder}/scratch", "setup": [f"export PATH={folder}/bin:$PATH"]}
    data = f"data.root={folder / 'images'}"
    return submit(slurm, folder, "staged", profile, "--config", images, "--nodes", 2, "--stage-data", data)


def in_a_container(slurm: Slurm, folder: Path) -> str:
    """Preempted once, where no scontrol is."""
    (folder / "box").write_text(BOX.format(folder=folder))
    (folder / "box").chmod(0o755)
    preempted = {"class_path": "tests.cluster.moments.Preempted", "init_args": {"moments": ["step 3"]}}
    (folder / "preempted.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [preempted]}}))
    options = ["--config", ROOT / DIGITS, "--", "--config", folder / "preempted.yaml", *SHORT]
    return submit(slurm, folder, "boxed", {"container": str(folder / "box")}, *options)


def sent_afterwards(slurm: Slurm, folder: Path) -> str:
    """Recorded offline, on nodes without a network."""
    profile = {"network": False, "sync_partition": "debug"}
    return submit(slurm, folder, "offline", profile, "--config", ROOT / DIGITS, "--sync", "--", *SHORT[:-2])


def completed(slurm: Slurm, job: str) -> dict[str, str]:
    """What scontrol says of a job that has ended well."""
    about = slurm.wait(job, timeout=PATIENCE)
    assert about["JobState"] == "COMPLETED", f"job {job} is {about['JobState']}:\n{slurm.output(job)}"
    return about


def test_fit_sbatch_ends_finished_in_the_run_that_its_user_named(
    slurm: Slurm, jobs: dict[str, str], folder: Path
) -> None:
    completed(slurm, jobs["fit"])
    assert load(folder / "runs/fit/mine").status == "finished"


def test_ddp_sbatch_ends_finished_with_a_process_on_each_node(slurm: Slurm, jobs: dict[str, str], folder: Path) -> None:
    completed(slurm, jobs["ddp"])
    run = load(folder / f"runs/ddp/{jobs['ddp']}")
    assert (run.status, run.record["device"]["ranks"]) == ("finished", 2)


@pytest.mark.parametrize("task", [3, 4])
def test_each_task_of_ablate_sbatch_ends_finished_with_its_own_seed(
    slurm: Slurm, jobs: dict[str, str], folder: Path, task: int
) -> None:
    completed(slurm, f"{jobs['ablate']}_{task}")
    run = load(folder / f"runs/ablate/{jobs['ablate']}-{task}")
    config = yaml.safe_load(run.files.config.read_text())
    seeds = (config["seed_everything"], config["data"]["init_args"]["subset_seed"])
    assert (run.status, seeds) == ("finished", (task, task))


def test_a_run_submitted_to_two_nodes_is_the_one_of_two_processes_here(
    slurm: Slurm,
    jobs: dict[str, str],
    folder: Path,
    images: Path,
    zygote: Zygote,
) -> None:
    completed(slurm, jobs["staged"])
    there = load(folder / "runs/e/staged")
    two = ("--config", images, "--trainer.devices", 2, "--experiment", "e", "--run_id", "here")
    codes = [zygote.wait(pid, PATIENCE) for pid in launch(zygote, folder, "fit", *two)]
    assert codes == [0, 0], (folder / "out-0").read_text()
    here = load(folder / "runs/e/here")
    assert (there.status, there.record["device"]["ranks"]) == ("finished", 2)
    assert there.record["test"] == pytest.approx(here.record["test"], rel=1e-6)
    for name in ("train/loss", "val/loss"):
        values = there.series(name)[1]
        assert values and values == pytest.approx(here.series(name)[1], rel=1e-6), f"{name} is another"


def test_data_is_copied_once_to_each_node_and_read_there(slurm: Slurm, jobs: dict[str, str], folder: Path) -> None:
    completed(slurm, jobs["staged"])
    copied = sorted((folder / "copied").read_text().split("\n")[:-1])
    source = folder / "images"
    assert copied == [f"node1 {source}", f"node2 {source}"], f"copied were {copied}"
    config = yaml.safe_load((folder / "runs/e/staged/config.yaml").read_text())
    scratch = folder / f"scratch/sft-{jobs['staged']}"
    assert config["data"]["init_args"]["root"] == f"{scratch}/0-images", "the run did not read the copy"
    assert not scratch.exists(), "the copy was left on the node's disk"


def test_a_run_in_a_container_without_scontrol_is_requeued_by_the_script_around_it(
    slurm: Slurm, jobs: dict[str, str], folder: Path
) -> None:
    about, said = completed(slurm, jobs["container"]), slurm.output(jobs["container"])
    assert "no scontrol here: whoever started job" in said, said
    assert about["Restarts"] == "1", f"it was requeued {about['Restarts']} times:\n{said}"
    record = json.loads((folder / "runs/e/boxed/run.json").read_text())
    assert (record["status"], record["requeues"]["steps"]) == ("finished", [3]), said


def test_what_was_recorded_offline_is_sent_by_a_job_that_follows(
    slurm: Slurm, jobs: dict[str, str], folder: Path
) -> None:
    first = jobs["offline"]
    after = next(job for job in slurm.jobs if slurm.about(job).get("JobName") == "e-sync")
    about = slurm.about(after)
    if slurm.about(first)["JobState"] in ("PENDING", "RUNNING"):
        assert about["Dependency"].startswith(f"afterany:{first}"), about["Dependency"]
    assert about["Partition"] == "debug"
    ended = completed(slurm, first)["EndTime"]
    script = slurm.client("scontrol", "write", "batch_script", after, "-").stdout
    (line,) = [text for text in script.splitlines() if "wandb sync" in text]
    parts = sorted((folder / "runs/e/offline/wandb").glob("offline-run-*"))
    pattern = re.fullmatch(r"(.+) -m wandb sync (.+)/offline-run-\*", line)
    assert pattern is not None, f"the job does something else: {line}"
    assert shlex.split(pattern[1]) == [sys.executable] and shlex.split(pattern[2]) == [
        str(folder / "runs/e/offline/wandb")
    ]
    assert parts, "nothing was recorded for it to send"
    assert slurm.wait(after, timeout=PATIENCE)["StartTime"] >= ended, "it did not wait for the run"
