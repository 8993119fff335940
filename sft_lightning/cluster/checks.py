"""Checks a job before it is submitted, for mistakes that would show only hours later, after the wait in the queue."""

import os
import re
import socket
import subprocess
from pathlib import Path

from sft_lightning.cluster.allocation import scontrol
from sft_lightning.cluster.layout import NO_NAMES
from sft_lightning.cluster.script import Job
from sft_lightning.cluster.wall_time import parse_time, written
from sft_lightning.core.errors import UserError, nearest

START_UP = 60
"""Least number of seconds that imports, data and the network take before the first step"""
LOCAL = ("tmpfs", "ramfs", "devtmpfs", "overlay", "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs")
"""File systems that are local to one machine"""


def check(job: Job, partition: str | None) -> None:
    """Raises UserError for a job that could not run."""
    if job.name in NO_NAMES:
        raise UserError(
            "--job-name", f"Lightning takes a job called '{job.name}' for one process", "give it another name"
        )
    check_options(job)
    if job.time is not None:
        least = START_UP + job.lead_s + 60
        if parse_time(job.time) < least:
            raise UserError(
                "--time",
                f"{job.time} is too short to start ({START_UP} s), train for a minute and save in the last {job.lead_s} s",
                f"ask for {written(least)} or more, or set --lead",
            )
    check_partition(job, partition)
    if job.nodes > 1:
        check_shared(job.root, partition)


def check_options(job: Job) -> None:
    """Raises UserError for options of sbatch that conflict with one process per GPU."""
    for option in job.options:
        name = option.lstrip("-").partition("=")[0]
        if name in ("gpus-per-task", "gpu-bind"):
            raise UserError(f"--sbatch={option}", "hides a node's other GPUs from each rank", "use --gpus-per-node")
        if name in ("ntasks", "n", "ntasks-per-node"):
            raise UserError(
                f"--sbatch={option}",
                "Trainer needs the same number of tasks on each node",
                "use --nodes with --gpus-per-node, or --tasks-per-node without GPUs",
            )
        if name in ("signal", "requeue", "no-requeue", "open-mode"):
            raise UserError(
                f"--sbatch={option}",
                "would keep the run from being saved and requeued",
                "use --lead and --max-requeues",
            )


def check_partition(job: Job, partition: str | None) -> None:
    """Raises UserError if the partition does not exist, or does not allow the job's time or number of nodes."""
    found = partitions()
    if not found:
        return  # no controller to ask: sbatch will say so
    if partition is not None and partition not in found:
        raise UserError(
            "--partition", f"there is no '{partition}'{nearest(partition, found)}", f"choose {', '.join(found)}"
        )
    name = partition or next((n for n, about in found.items() if about.get("Default") == "YES"), None)
    if name is None:
        raise UserError("--partition", "must be given: this cluster has no default", f"choose {', '.join(found)}")
    limit = found[name].get("MaxTime", "UNLIMITED")
    if job.time is not None and re.match(r"\d", limit) and parse_time(job.time) > parse_time(limit):
        others = [n for n, about in found.items() if not re.match(r"\d", about.get("MaxTime", ""))]
        raise UserError(
            "--time",
            f"{job.time} is more than partition {name} allows ({limit}): the job would wait for ever",
            "ask for less" + (f", or --partition {others[0]}" if others else ""),
        )
    total = found[name].get("TotalNodes", "")
    if total.isdigit() and job.nodes > int(total):
        raise UserError("--nodes", f"{job.nodes} is more than partition {name} has ({total})", "ask for fewer")


def partitions() -> dict[str, dict[str, str]]:
    """Returns {partition: its entries} as scontrol describes it; empty if scontrol does not answer."""
    answer = scontrol("show", "partition", "-o")
    if answer is None or answer.returncode:
        return {}
    described = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in answer.stdout.splitlines()]
    return {about["PartitionName"]: about for about in described if "PartitionName" in about}


def check_shared(root: Path, partition: str | None) -> None:
    """Raises UserError if a folder for several nodes is local to each. The job checks this again when it runs."""
    if all_nodes_are_here():
        return
    kind = file_system(root)
    private = [p for p in ("/tmp", "/var/tmp", "/dev/shm", os.environ.get("TMPDIR", "")) if p]
    inside = next((p for p in private if root.is_relative_to(p)), None)
    if inside is not None or kind in LOCAL:
        why = (
            f"each node has its own {inside}"
            if inside is not None
            else f"it lies on {kind}, which is local to this machine"
        )
        raise UserError(
            "--runs_dir", f"{root} is not shared between nodes: {why}", "choose a folder on the shared file system"
        )


def all_nodes_are_here() -> bool:
    """Tells whether every node of the cluster is this machine."""
    answer = scontrol("show", "node", "-o")
    if answer is None or answer.returncode:
        return False
    hosts = set(re.findall(r"NodeHostName=(\S+)", answer.stdout))
    addresses = set(re.findall(r"NodeAddr=(\S+)", answer.stdout))
    return hosts <= {socket.gethostname()} or addresses <= {"127.0.0.1", "localhost"}


def file_system(path: Path) -> str:
    """Returns the type of the file system of a path, or of its nearest existing parent."""
    while not path.exists():
        path = path.parent
    done = subprocess.run(["stat", "-f", "-c", "%T", str(path)], capture_output=True, text=True, check=False)
    kind = done.stdout.strip().partition("/")[0]
    return "overlay" if kind == "overlayfs" else kind or "unknown"
