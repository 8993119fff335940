"""Reads from the environment what Slurm gave to this process. Imports nothing heavy, because it runs before anything else."""

import math
import os
import re
import subprocess
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Allocation:
    """A Slurm job, its step, and the place of this process in it."""

    job: str
    """Id as scontrol takes it: `123`, or `120_4` for a task of an array"""
    restarts: int
    """How often the job was requeued"""
    rank: int
    tasks: int
    """Number of the step's tasks, or of the job's if srun did not start this process"""
    nodes: int
    tasks_per_node: int | None
    """None if nodes have different numbers of tasks"""
    by_srun: bool


def allocation() -> Allocation | None:
    """Returns the Slurm job that this process runs in; None outside a job."""
    given = os.environ
    if "SLURM_JOB_ID" not in given:
        return None
    array = given.get("SLURM_ARRAY_JOB_ID")
    by_srun = given.get("SLURM_STEP_ID", "").isdigit()
    of = "STEP_NUM_" if by_srun and "SLURM_STEP_NUM_TASKS" in given else ""
    nodes = given.get(f"SLURM_{of}NODES" if of else "SLURM_NNODES", "1")
    per_node = re.fullmatch(r"(\d+)(\(x\d+\))?", given.get(f"SLURM_{'STEP_' if of else ''}TASKS_PER_NODE", "1"))
    return Allocation(
        job=f"{array}_{given['SLURM_ARRAY_TASK_ID']}" if array else given["SLURM_JOB_ID"],
        restarts=int_or_default(given.get("SLURM_RESTART_COUNT")),
        rank=int_or_default(given.get("SLURM_PROCID")),
        tasks=int_or_default(given.get(f"SLURM_{of}TASKS" if of else "SLURM_NTASKS"), 1),
        nodes=int_or_default(nodes, 1),
        tasks_per_node=int(per_node[1]) if per_node else None,
        by_srun=by_srun,
    )


def int_or_default(text: str | None, default: int = 0) -> int:
    """Reads a whole number from the environment."""
    return int(text) if text is not None and text.isdigit() else default


def scontrol(*arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str] | None:
    """Runs scontrol; None if this node has no scontrol or the controller does not answer."""
    form = {**os.environ, "SLURM_TIME_FORMAT": "standard"}
    try:
        return subprocess.run(
            ["scontrol", *arguments], capture_output=True, text=True, timeout=timeout, check=False, env=form
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def ends(job: str, before: float | None = None) -> float | None:
    """Returns when the job's time is up, in seconds since 1970; infinity without a limit, None if unknown.

    Asks the controller first: the limit may change while the job runs, and the environment has the one at the start.

    Args:
        job: Id of the job.
        before: The earlier answer, returned if the controller does not answer.
    """
    answer = scontrol("show", "job", "-o", job, timeout=10.0)
    found = re.search(r"\bEndTime=(\S+)", answer.stdout) if answer is not None and not answer.returncode else None
    if found is not None and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", found[1]):
        return time.mktime(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S"))
    if found is not None:
        return math.inf
    if before is not None:
        return before
    given = os.environ.get("SLURM_JOB_END_TIME", "")
    return float(given) if given.isdigit() else None
