"""A study's due points as one Slurm job array, and a job after it that goes on with the study and writes its comparison."""

import json
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft_lightning.ablation.engine import Engine
from sft_lightning.ablation.folder import StudyFolder
from sft_lightning.ablation.worker import carry_out
from sft_lightning.cluster.checks import check
from sft_lightning.cluster.profile import Profile
from sft_lightning.cluster.sbatch import sbatch
from sft_lightning.cluster.script import Job, Raw, render
from sft_lightning.errors import UserError
from sft_lightning.runs.directory import write_atomic


def submit(
    engine: Engine,
    command: list[str],
    profile: Profile,
    choices: dict[str, Any],
    options: list[str],
    limit: int,
    threads: int | None,
) -> str:
    """Writes both scripts into the study's folder and submits them; returns what to tell the user.

    Args:
        engine: The study, whose folder is made.
        command: The `ablate` command that goes on with the study on its node.
        profile: The cluster's.
        choices: Partition, time and the like, which win over the profile.
        options: More options of sbatch, such as `--gpus-per-node=1`.
        limit: Tasks of the array that run at a time.
        threads: CPU threads of each point; None for the CPUs that Slurm gives a task.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--launcher slurm: there is no sbatch here: run this on a login node, or use --launcher local")
    folder = engine.folder
    points = [point for job, point in engine.jobs() if job == "fit"]
    place = folder.path.resolve() / "slurm"
    here = [profile.python or sys.executable, "-m", "sft_lightning"]
    line = f'point=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(place / "points.txt"))})'
    cores = f"export OMP_NUM_THREADS={threads or '${SLURM_CPUS_PER_TASK:-1}'}"
    logs = folder.path.resolve() / "logs"
    array = Job(
        name=f"ablate-{engine.study.name}",
        nodes=1,
        tasks_per_node=1,
        gpus_per_node=0,
        time=choices.get("time") or profile.time,
        log=str(logs / "slurm-%A_%a.out"),
        folder=Path.cwd(),
        root=folder.path.resolve().parent,
        command=[*here, "ablate", "--study_folder", str(folder.path.resolve()), "--point", Raw('"$point"')],
        lead_s=profile.lead_s,
        array=f"0-{len(points) - 1}%{limit}",
        options=[*profile.sbatch, *options],
        before=[cores, line],
    )
    whole = replace(array, name=f"{array.name}-collect", log=str(logs / "slurm-%j-collect.out"), array=None, before=[])
    whole = replace(whole, command=[*here, "ablate", *command])
    check(array, choices.get("partition") or profile.partition)
    for point in points:
        folder.plan(engine.points[point])
    place.mkdir(exist_ok=True)
    write_atomic(place / "points.txt", "".join(f"{p}\n" for p in points))
    scripts = place / "points.sbatch", place / "collect.sbatch"
    write_atomic(scripts[1], render(whole, profile, choices))
    said, number = [], None
    if points:
        write_atomic(scripts[0], render(array, profile, choices))
        number = sbatch(str(scripts[0]))
        said.append(f"array   job {number}: {len(points)} points, {limit} at a time")
    last = sbatch(*([f"--dependency=afterany:{number}"] if number else []), str(scripts[1]))
    said.append(f"collect job {last}: goes on once the array has ended, and writes {folder.path}")
    said.append(f"follow  squeue --me; sft-lightning study status {folder.path}")
    said.append(f"stop    scancel {last}{f' {number}' if number else ''}")
    write_atomic(place / "jobs.json", json.dumps({"array": number, "collect": last, "points": points}) + "\n")
    return "\n".join(said)


def run_point(folder: Path, point: str) -> int:
    """A task of the array: fits one point, and returns its exit code."""
    study = StudyFolder(folder)
    if not study.config(point).is_file():
        raise UserError(f"--point: {folder} has no point '{point}'")
    return int(carry_out(study, "fit", point)["fit"]["exit"])
