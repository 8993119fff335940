"""A study's due points as one Slurm job array, and a job after it that goes on with the study and writes its comparison."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from sft_lightning.ablation.engine import Engine
from sft_lightning.ablation.folder import StudyFolder
from sft_lightning.ablation.worker import carry_out
from sft_lightning.errors import UserError
from sft_lightning.runs.directory import write_atomic

SCRIPT = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --output={logs}/slurm-%A_%a.out
{options}
# One task for each line of points.txt: a point's id. A point that was begun is gone on with.
set -eu
cd {cwd}
point=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {points})
exec {python} -m sft_lightning ablate --study_folder {folder} --point "$point"
"""
COLLECT = """#!/bin/bash
#SBATCH --job-name={name}-collect
#SBATCH --output={logs}/slurm-%j-collect.out
{options}
# Goes on with the study: chosen settings' points that are missing, their tests, points.csv, study.json, the page.
set -eu
cd {cwd}
exec {command}
"""


def submit(engine: Engine, command: list[str], options: list[str], limit: int) -> str:
    """Writes both scripts into the study's folder and submits them; returns what to tell the user.

    Args:
        engine: The study, whose folder is made.
        command: The `ablate` command that goes on with the study locally.
        options: More options of sbatch, such as `--time=01:00:00`.
        limit: Tasks of the array that run at a time.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--launcher slurm: there is no sbatch here: run this on a login node, or use --launcher local")
    folder = engine.folder
    points = [point for job, point in engine.jobs() if job == "fit"]
    for point in points:
        engine.folder.plan(engine.points[point])
    place = folder.path / "slurm"
    place.mkdir(exist_ok=True)
    about = {
        "name": f"ablate-{engine.study.name}",
        "logs": folder.path.resolve() / "logs",
        "cwd": shlex.quote(os.getcwd()),
        "python": shlex.quote(sys.executable),
        "folder": shlex.quote(str(folder.path.resolve())),
        "points": shlex.quote(str(place.resolve() / "points.txt")),
        "options": "\n".join(f"#SBATCH {o}" for o in options),
    }
    write_atomic(place / "points.txt", "".join(f"{p}\n" for p in points))
    collect = place / "collect.sbatch"
    again = shlex.join([sys.executable, "-m", "sft_lightning", "ablate", *command])
    write_atomic(collect, COLLECT.format(**about, command=again))
    said = []
    after: list[str] = []
    if points:
        array = place / "points.sbatch"
        write_atomic(array, SCRIPT.format(**about))
        job = sbatch(f"--array=0-{len(points) - 1}%{limit}", str(array))
        said.append(f"array   job {job}: {len(points)} points, {limit} at a time")
        after = [f"--dependency=afterany:{job}"]
    last = sbatch(*after, str(collect))
    said.append(f"collect job {last}: goes on once the array has ended, and writes {folder.path}")
    said.append(f"follow: squeue --me; cancel: scancel {last}{' ' + job if points else ''}")
    return "\n".join(said)


def sbatch(*arguments: str) -> str:
    """The id of the job that sbatch made of these arguments; UserError with what it said."""
    done = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"--launcher slurm: sbatch refuses: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout.strip().partition(";")[0]


def run_point(folder: Path, point: str) -> int:
    """A task of the array: fits one point, and returns its exit code."""
    study = StudyFolder(folder)
    if not study.config(point).is_file():
        raise UserError(f"--point: {folder} has no point '{point}'")
    os.environ["SLURM_JOB_NAME"] = "interactive"  # one process: Lightning need not look for ranks in Slurm's variables
    for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID"):
        os.environ.pop(name, None)
    return int(carry_out(study, "fit", point)["fit"]["exit"])
