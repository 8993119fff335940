"""Sets Trainer's `devices` and `num_nodes` from the Slurm job, and refuses a job that does not fit before it hangs."""

import os
from typing import Any

from sft_lightning.cluster.allocation import Allocation, allocation
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural

NO_NAMES = ("bash", "interactive")
"""Names of jobs that Lightning takes for a single process at a prompt"""


def follow(given: Any) -> dict[str, Any]:
    """Returns the arguments of Trainer that a Slurm job settles; none outside a job.

    Args:
        given: `trainer` of the config.
    """
    job = allocation()
    if job is None or "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun sets the number of processes
        return {}
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    check(job, given.get("devices"), given.get("num_nodes"))
    if job.tasks == 1:  # whatever the job's name, and in each process that Lightning starts
        return {"plugins": [LightningEnvironment()]}
    plugin = SLURMEnvironment(auto_requeue=False)  # cluster/requeue.py does it
    return {"devices": job.tasks_per_node, "num_nodes": job.nodes, "plugins": [plugin]}


def check(job: Allocation, devices: Any, num_nodes: Any) -> None:
    """Raises UserError if the job's tasks do not match the config."""
    if job.tasks == 1:
        if num_nodes not in (None, 1):
            raise UserError(
                "trainer.num_nodes",
                f"is {num_nodes}, but the Slurm job has one task",
                f"add --nodes={num_nodes} to the job",
            )
        return
    if not job.by_srun:
        raise UserError(
            "Slurm",
            f"the job has {job.tasks} tasks, but srun did not start this process, so it would wait for the others for ever",
            "write srun in front of the command, or ask for --ntasks=1",
        )
    if job.tasks_per_node is None or job.tasks_per_node * job.nodes != job.tasks:
        raise UserError(
            "Slurm",
            f"the job has {job.tasks} tasks on {job.nodes} nodes, not the same number on each",
            "ask for --ntasks-per-node instead of --ntasks",
        )
    if os.environ.get("SLURM_JOB_NAME") in NO_NAMES:
        raise UserError(
            "Slurm",
            f"Lightning takes a job called '{os.environ['SLURM_JOB_NAME']}' for one process",
            "give it another --job-name",
        )
    if num_nodes not in (None, 1, job.nodes):
        raise UserError("trainer.num_nodes", f"is {num_nodes}, but Slurm gave {job.nodes} nodes", "leave it out")
    if not fits(devices, job.tasks_per_node):
        raise UserError(
            "trainer.devices",
            f"is {devices}, but Slurm gave {job.tasks_per_node} tasks on each node",
            f"leave it out, or ask for --ntasks-per-node={len(devices) if isinstance(devices, list) else devices}",
        )
    check_gpus(job)


def await_nodes(environment: Any, num_nodes: int) -> str | None:
    """Returns one line about the other nodes that this one will wait for; None if something else brings the nodes together.

    Raises UserError if the nodes cannot find each other: Lightning would wait for ever, without a message.

    Args:
        environment: The environment of the run's processes, as Lightning detects it.
        num_nodes: Number of nodes of the run.
    """
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    if num_nodes == 1 or not isinstance(environment, LightningEnvironment):
        return None
    node, address = environment.node_rank(), os.environ.get("MASTER_ADDR")
    lacks = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if lacks and not (node == 0 and lacks == ["MASTER_ADDR"]):
        raise UserError(
            "trainer.num_nodes",
            f"is {num_nodes}, but without {' and '.join(lacks)} the nodes cannot find each other",
            "set MASTER_ADDR, MASTER_PORT and NODE_RANK on each node, start by torchrun or Slurm, or leave it out",
        )
    where = f"{address or 'this node'}, port {os.environ['MASTER_PORT']}"
    return f"this is node {node} (NODE_RANK); it waits for {plural(num_nodes - 1, 'other node')} at {where}"


def fits(devices: Any, tasks_per_node: int) -> bool:
    """Tells whether trainer.devices is left to Slurm or asks for the same number of processes."""
    count = len(devices) if isinstance(devices, list) else devices
    return str(count) in ("None", "auto", "-1", str(tasks_per_node))


def check_gpus(job: Allocation) -> None:
    """Raises UserError if ranks do not see all GPUs of their node, or there are fewer GPUs than ranks."""
    if "SLURM_GPUS_PER_TASK" in os.environ or "SLURM_GPU_BIND" in os.environ:
        raise UserError(
            "Slurm",
            "--gpus-per-task and --gpu-bind hide a node's other GPUs from each rank",
            f"ask for --gpus-per-node={job.tasks_per_node} (or --gres=gpu:{job.tasks_per_node}) and "
            f"--ntasks-per-node={job.tasks_per_node}",
        )
    seen = [g for g in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if g]
    if seen and job.tasks_per_node is not None and len(seen) < job.tasks_per_node:
        raise UserError(
            "Slurm",
            f"each node has {job.tasks_per_node} tasks but only {len(seen)} GPUs",
            "ask for as many GPUs as tasks",
        )
