"""Trainer's devices and nodes follow from the job; what is at odds with it is said, and what to do."""

from typing import Any

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from sft_lightning.cluster.allocation import Allocation
from sft_lightning.cluster.layout import await_nodes, check, follow
from tests.cluster.environments import ONE, STEP
from tests.cluster.test_allocation import given
from tests.refused import refused


def of(**about: Any) -> Allocation:
    """Two nodes with four tasks each, started by srun, but for what is said otherwise."""
    usual = {"job": "5", "restarts": 0, "rank": 0, "tasks": 8, "nodes": 2, "tasks_per_node": 4, "by_srun": True}
    return Allocation(**{**usual, **about})


ALONE = {"tasks": 1, "nodes": 1, "tasks_per_node": 1, "by_srun": False}


# ---- what follows ----


def test_outside_a_job_nothing_follows(outside: pytest.MonkeyPatch) -> None:
    assert follow({"devices": 4, "num_nodes": 3}) == {}


def test_several_tasks_are_lightnings_ranks_and_lightning_does_not_requeue(outside: pytest.MonkeyPatch) -> None:
    given(outside, STEP)
    arguments = follow({"devices": "auto", "num_nodes": 1})
    (plugin,) = arguments.pop("plugins")
    assert arguments == {"devices": 1, "num_nodes": 2}
    assert isinstance(plugin, SLURMEnvironment)
    assert not plugin.auto_requeue, "Lightning's handler would save and requeue beside ours"


@pytest.mark.parametrize("name", ["fit", "bash", "interactive"])
def test_one_task_is_one_process_whatever_the_job_is_called(outside: pytest.MonkeyPatch, name: str) -> None:
    given(outside, ONE, SLURM_JOB_NAME=name)
    arguments = follow({"devices": "auto"})
    (plugin,) = arguments.pop("plugins")
    assert arguments == {}, "how many GPUs one process uses is the config's to say"
    assert isinstance(plugin, LightningEnvironment)


def test_processes_that_lightning_started_in_one_task_are_still_lightnings(outside: pytest.MonkeyPatch) -> None:
    """Left to itself, it takes each of them for the first of a Slurm job's one rank, and they fight for a port."""
    given(outside, ONE, LOCAL_RANK="1", NODE_RANK="0", WORLD_SIZE="2")
    (plugin,) = follow({"devices": 2})["plugins"]
    assert isinstance(plugin, LightningEnvironment)


@pytest.mark.parametrize("by", [ONE, STEP], ids=["in a job of one task", "by srun, once on each node"])
def test_processes_that_torchrun_started_find_each_other_by_themselves(
    outside: pytest.MonkeyPatch, by: dict[str, str]
) -> None:
    given(outside, by, TORCHELASTIC_RUN_ID="none", LOCAL_RANK="1", RANK="1", WORLD_SIZE="8")
    assert follow({"devices": 4, "num_nodes": 2}) == {}


# ---- nodes without Slurm ----


NODES = ("trainer.num_nodes", "2", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "torchrun")


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"MASTER_ADDR": "first"},
        {"NODE_RANK": "1", "MASTER_PORT": "29500"},
        {"NODE_RANK": "1", "MASTER_ADDR": "first"},
    ],
)
def test_nodes_that_cannot_find_each_other_are_refused(outside: pytest.MonkeyPatch, about: dict[str, str]) -> None:
    outside_launchers(outside, **about)
    with refused(*NODES):
        await_nodes(LightningEnvironment(), 2)


@pytest.mark.parametrize(
    "about", [{}, {"MASTER_ADDR": "first", "NODE_RANK": "0"}, {"MASTER_ADDR": "first", "NODE_RANK": "1"}]
)
def test_a_node_names_what_it_waits_for(outside: pytest.MonkeyPatch, about: dict[str, str]) -> None:
    outside_launchers(outside, MASTER_PORT="29500", **about)
    said = await_nodes(LightningEnvironment(), 3)
    assert said is not None
    for value in (f"node {about.get('NODE_RANK', 0)}", "2 other nodes", about.get("MASTER_ADDR", ""), "29500"):
        assert value in said, said


def test_one_node_and_nodes_of_a_launcher_need_no_variables(outside: pytest.MonkeyPatch) -> None:
    outside_launchers(outside)
    assert await_nodes(LightningEnvironment(), 1) is None
    assert await_nodes(SLURMEnvironment(auto_requeue=False), 2) is None


def outside_launchers(outside: pytest.MonkeyPatch, **about: str) -> None:
    """Sets the variables by which a user tells nodes of each other, and no others."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "GROUP_RANK"):
        outside.delenv(name, raising=False)
    for name, value in about.items():
        outside.setenv(name, value)


# ---- what fits ----


@pytest.mark.parametrize("devices", [None, "auto", -1, "-1", 4, "4", [0, 1, 2, 3]])
@pytest.mark.parametrize("num_nodes", [None, 1, 2])
def test_what_the_config_leaves_open_or_says_rightly_fits(
    outside: pytest.MonkeyPatch, devices: Any, num_nodes: int | None
) -> None:
    given(outside, CUDA_VISIBLE_DEVICES="0,1,2,3", SLURM_JOB_NAME="fit")
    check(of(), devices, num_nodes)


def test_one_task_may_use_several_devices(outside: pytest.MonkeyPatch) -> None:
    check(of(**ALONE), 8, 1)


def test_tasks_without_gpus_fit(outside: pytest.MonkeyPatch) -> None:
    given(outside, CUDA_VISIBLE_DEVICES="")
    check(of(), None, None)


# ---- what does not ----


MISMATCHES: dict[str, tuple[dict[str, Any], dict[str, str], tuple[Any, Any], tuple[str, ...]]] = {
    "the config wants nodes that the job has not": (ALONE, {}, (None, 4), ("trainer.num_nodes", "4", "--nodes=4")),
    "the command stands in the script without srun": (
        {"by_srun": False}, {}, (None, None), ("Slurm", "8 tasks", "srun", "--ntasks=1")
    ),
    "nodes have different numbers of tasks": (
        {"tasks": 3, "tasks_per_node": None}, {}, (None, None), ("Slurm", "3 tasks", "2 nodes", "--ntasks-per-node")
    ),
    "the job is called bash": ({}, {"SLURM_JOB_NAME": "bash"}, (None, None), ("Slurm", "'bash'", "--job-name")),
    "the job is called interactive": (
        {}, {"SLURM_JOB_NAME": "interactive"}, (None, None), ("Slurm", "'interactive'", "--job-name")
    ),
    "another number of nodes": ({}, {}, (None, 3), ("trainer.num_nodes", "3", "2 nodes")),
    "another number of devices": ({}, {}, (2, None), ("trainer.devices", "2", "4 tasks", "--ntasks-per-node=2")),
    "another list of devices": (
        {}, {}, ([0, 1], None), ("trainer.devices", "[0, 1]", "4 tasks", "--ntasks-per-node=2")
    ),
    "GPUs are given to tasks one by one": (
        {}, {"SLURM_GPUS_PER_TASK": "1"}, (None, None),
        ("Slurm", "--gpus-per-task", "--gpus-per-node=4", "--gres=gpu:4", "--ntasks-per-node=4"),
    ),
    "GPUs are bound to tasks": (
        {}, {"SLURM_GPU_BIND": "single:1"}, (None, None),
        ("Slurm", "--gpu-bind", "--gpus-per-node=4", "--gres=gpu:4", "--ntasks-per-node=4"),
    ),
    "fewer GPUs than tasks": ({}, {"CUDA_VISIBLE_DEVICES": "0,1"}, (None, None), ("Slurm", "4 tasks", "2 GPUs")),
}  # fmt: skip


@pytest.mark.parametrize("case", MISMATCHES)
def test_a_mismatch_is_said_with_its_remedy(outside: pytest.MonkeyPatch, case: str) -> None:
    job, environment, (devices, num_nodes), refusal = MISMATCHES[case]
    given(outside, environment)
    with refused(*refusal):
        check(of(**job), devices, num_nodes)
