"""Turns the options of `submit` into a job, and checks that fit would accept it."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from sft_lightning.cluster.layout import fits
from sft_lightning.cluster.profile import Profile
from sft_lightning.cluster.script import Job, Raw
from sft_lightning.config.overrides import full
from sft_lightning.core.errors import UserError
from sft_lightning.runs.directory import RunDirectory, experiment_name, make_run_id, run_path


def run_directory(given: argparse.Namespace) -> RunDirectory:
    """Returns the directory of the run; for an array without the run's number."""
    if given.resume is not None:
        if given.array is not None:
            raise UserError(
                "--array", "cannot be combined with --resume, which names a single run", "leave --array out"
            )
        for needed in ("config.yaml", "run.json"):
            if not (given.resume / needed).is_file():
                raise UserError("--resume", f"{given.resume} is not a run, because it has no {needed}")
        return RunDirectory(given.resume.resolve())
    if not given.config.is_file():
        raise UserError("--config", f"{given.config} does not exist")
    root = given.runs_dir or os.environ.get("SFT_RUNS_DIR") or "runs"
    experiment = given.experiment or experiment_name(["--config", str(given.config)])
    path = run_path(Path(root).resolve(), experiment, given.run_id or make_run_id())
    if path.exists():
        raise UserError(
            "--run_id", f"{path} exists already", f"choose another run_id, or resume it by submit --resume {path}"
        )
    return RunDirectory(path)


def make_job(given: argparse.Namespace, profile: Profile, theirs: list[str], where: RunDirectory) -> Job:
    """Makes the job that the options ask for."""
    if given.gpus_per_node and given.tasks_per_node not in (None, given.gpus_per_node):
        raise UserError(
            "--tasks-per-node",
            f"{given.tasks_per_node} differs from --gpus-per-node {given.gpus_per_node}, and each GPU has one task",
            "leave it out",
        )
    tasks = given.gpus_per_node or given.tasks_per_node or 1
    root = where.path.parent.parent
    command: list[str] = [profile.python or sys.executable, "-m", "sft_lightning", "fit"]
    if given.resume is not None:
        command += ["--resume", str(where.path)]
    else:
        number = "-$SLURM_ARRAY_TASK_ID" if given.array is not None else ""
        run_id = Raw(f'"{where.run_id}{number}"') if number else where.run_id
        command += ["--config", str(given.config.resolve()), "--runs_dir", str(root), "--experiment", where.experiment]
        command += ["--run_id", run_id, "--ckpt_path", "last"]
    if not profile.network:
        command += ["--wandb_fallback", "offline"]
    for option in theirs:
        if "{task}" in option:
            if given.array is None:
                raise UserError(
                    "submit", f"'{option}' needs the number of a run in an array", "add --array, such as 0-4"
                )
            option = Raw('"$SLURM_ARRAY_TASK_ID"'.join(part and shlex.quote(part) for part in option.split("{task}")))
        command.append(option)
    staged = []
    for i, option in enumerate(given.stage_data):
        key, is_given, source = option.partition("=")
        if not is_given or not Path(source).expanduser().exists():
            raise UserError("--stage-data", f"must be KEY=PATH of an existing file or folder, got '{option}'")
        if profile.scratch is None:
            raise UserError(
                "--stage-data",
                "the profile has no scratch",
                "add the path of a node's own disk, such as scratch: $TMPDIR",
            )
        name = f"{i}-{Path(source).name}"
        staged.append((str(Path(source).expanduser().resolve()), name))
        command += [f"--{full(key)}", Raw(f'"$scratch/{name}"')]
    logs = root / "slurm"
    return Job(
        name=given.job_name or where.experiment,
        nodes=given.nodes,
        tasks_per_node=tasks,
        gpus_per_node=given.gpus_per_node,
        time=given.time or profile.time,
        log=str(logs / (f"{where.run_id}-%A_%a.out" if given.array else f"{where.run_id}-%j.out")),
        folder=Path.cwd(),
        root=root,
        command=command,
        lead_s=given.lead or profile.lead_s,
        array=given.array,
        max_requeues=given.max_requeues,
        max_idle_returns=given.max_idle_returns,
        staged=staged,
        options=[*profile.sbatch, *given.sbatch],
    )


def check_fit(given: argparse.Namespace, theirs: list[str], job: Job) -> None:
    """Raises UserError if fit would refuse the experiment or an option, or cannot divide its batch among the ranks."""
    from sft_lightning.config.files import check_yaml
    from sft_lightning.config.options import underscored
    from sft_lightning.config.resolve import resolve_arguments

    file = given.config if given.config is not None else given.resume / "config.yaml"
    check_yaml(file)
    config = resolve_arguments(["--config", str(file), *(underscored(o.replace("{task}", "0")) for o in theirs)])
    trainer: dict[str, Any] = config.get("trainer", {})
    if trainer.get("num_nodes") not in (None, 1, job.nodes):
        raise UserError("trainer.num_nodes", f"{trainer['num_nodes']} differs from --nodes {job.nodes}", "leave it out")
    devices = trainer.get("devices")
    if not fits(devices, job.tasks_per_node):
        problem = f"{devices} differs from the {job.tasks_per_node} per node that are asked for as GPUs or tasks"
        raise UserError("trainer.devices", problem, "leave it out")
    ranks = job.nodes * job.tasks_per_node
    batch, micro = config["data"]["init_args"].get("batch_size"), trainer.get("accumulate_grad_batches") or 1
    if isinstance(batch, int) and batch % (ranks * micro):
        raise UserError(
            "data.batch_size",
            f"{batch} (samples per optimizer step, over all ranks) does not divide by {ranks} ranks"
            + (f" × {micro} micro-batches" if micro > 1 else ""),
            f"choose a multiple of {ranks * micro}",
        )
