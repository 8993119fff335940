"""Submits a study's due points to Slurm as a job array, with a job after it that finishes the study and compares its arms."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.ablation import collect
from sft_lightning.ablation.jobs import StudyJobs, Submission
from sft_lightning.ablation.scheduler import Scheduler
from sft_lightning.ablation.study_dir import StudyDir
from sft_lightning.ablation.worker import Main, of_several, run_job
from sft_lightning.cluster.checks import check
from sft_lightning.cluster.profile import Profile
from sft_lightning.cluster.sbatch import cancel, sbatch
from sft_lightning.cluster.script import Job, Raw, render
from sft_lightning.core.errors import UserError
from sft_lightning.runs.directory import write_atomic


def submit(
    scheduler: Scheduler,
    command: list[str],
    profile: Profile,
    choices: dict[str, Any],
    options: list[str],
    limit: int,
    threads: int | None,
) -> str:
    """Writes both scripts into the study's folder and submits them; returns the lines to print.

    A point whose job waits or runs is not submitted again. One collecting job follows all arrays: the new one replaces an
    earlier one.

    Args:
        scheduler: The study's scheduler; the study's folder must exist.
        command: Arguments of the `ablate` command with which the collecting job finishes the study.
        profile: The cluster's profile.
        choices: Partition and time, which override the profile.
        options: Further options of sbatch, such as `--gpus-per-node=1`.
        limit: Number of the array's tasks that run at a time.
        threads: CPU threads of each point; None for the CPUs that Slurm gives a task.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--launcher slurm", "sbatch was not found", "run this on a login node, or use --launcher local")
    folder = scheduler.folder
    held = StudyJobs(folder)
    if not held.answers:
        raise UserError(
            "--launcher slurm", "squeue does not answer, so the jobs in the queue are unknown", "try again later"
        )
    fits = [point for job, point in scheduler.jobs() if job == "fit"]
    due = [point for point in fits if scheduler.points[point].along is None]  # the others are for the collecting job
    points = [point for point in due if not held.is_queued(point)]
    before, collecting = held.arrays(), held.collecting()
    said = []
    if waiting := len(due) - len(points):
        said.append(f"queued  {waiting} points wait or run already: {', '.join(f'job {a}' for a in before)}")
    if collecting and not points:
        return "\n".join([*said, f"collect job {collecting[-1]} follows; nothing was submitted"])
    place = folder.path.resolve() / "slurm"
    here = [profile.python or sys.executable, "-m", "sft_lightning"]
    cores = f"export OMP_NUM_THREADS={threads or '${SLURM_CPUS_PER_TASK:-1}'}"
    logs = folder.path.resolve() / "logs"
    array = Job(
        name=held.name,
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
        before=[cores, f"points=({' '.join(points)})", "point=${points[$SLURM_ARRAY_TASK_ID]}"],
    )
    whole = replace(array, name=f"{held.name}-collect", log=str(logs / "slurm-%j-collect.out"), array=None, before=[])
    whole = replace(whole, command=[*here, "ablate", *command])
    check(array, choices.get("partition") or profile.partition)
    for point in points:
        folder.plan(scheduler.points[point])
    collect.write(scheduler, "running")  # so that `study status` and `compare` work before a point is done
    place.mkdir(exist_ok=True)
    scripts = place / "points.sbatch", place / "collect.sbatch"
    write_atomic(scripts[1], render(whole, profile, choices))
    submission = Submission(None, points)
    if points:
        write_atomic(scripts[0], render(array, profile, choices))
        submission.array = sbatch(str(scripts[0]))
        held.note(submission)  # now, as an error below would otherwise lead to a second submission of its points
        said.append(f"array   job {submission.array}: {len(points)} points, {limit} at a time")
    after = [*before, *([submission.array] if submission.array else [])]
    last = sbatch(*([f"--dependency=afterany:{':'.join(after)}"] if after else []), str(scripts[1]))
    submission.collect = last
    held.note(submission)
    for job in collecting:  # an earlier collecting job would not wait for the new array
        cancel(job)
    said.append(f"collect job {last}: finishes the study after the array, and writes {folder.path}")
    said.append(f"follow  squeue --me; sft-lightning study status {folder.path}")
    said.append(f"stop    scancel {' '.join([last, *after])}")
    return "\n".join(said)


def run_point(folder: Path, point: str, main: Main) -> int:
    """Fits one point as a task of the array; returns its exit code."""
    study = StudyDir(folder)
    if not study.config(point).is_file():
        raise UserError("--point", f"{folder} has no point '{point}'")
    finished = study.standing(point).finished and study.has_weights(point)
    if finished or study.held(point):  # held by another job, or by the study on another machine
        print(f"point {point}: {'finished already' if finished else 'another process is at it'}")
        return 0
    trainer = yaml.safe_load(study.config(point).read_text())["trainer"]
    return int(run_job(study, "fit", point, main, commands=of_several(trainer))["fit"]["exit"])
