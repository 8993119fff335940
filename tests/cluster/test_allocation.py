"""What a process is told of its job, by the environment that Slurm gives it."""

import math
import time

import pytest

from sft_lightning.cluster.allocation import allocation, ends, scontrol
from tests.cluster.conftest import StandIn
from tests.cluster.environments import BATCH, ONE, STEP


def given(environment: pytest.MonkeyPatch, *parts: dict[str, str], **more: str) -> None:
    for part in (*parts, more):
        for name, value in part.items():
            environment.setenv(name, value)


def test_outside_a_job_there_is_no_allocation(outside: pytest.MonkeyPatch) -> None:
    assert allocation() is None


def test_a_batch_script_knows_the_jobs_tasks_and_that_srun_did_not_start_it(outside: pytest.MonkeyPatch) -> None:
    given(outside, BATCH)
    job = allocation()
    assert job is not None
    assert (job.job, job.restarts) == ("1", 0)
    assert (job.rank, job.tasks, job.nodes, job.tasks_per_node) == (0, 2, 2, 1)
    assert not job.by_srun


def test_a_process_of_srun_knows_which_of_the_steps_it_is(outside: pytest.MonkeyPatch) -> None:
    given(outside, STEP, SLURM_RESTART_COUNT="3")
    job = allocation()
    assert job is not None
    assert (job.job, job.restarts) == ("1", 3)
    assert (job.rank, job.tasks, job.nodes, job.tasks_per_node) == (1, 2, 2, 1)
    assert job.by_srun


def test_of_a_step_smaller_than_its_job_the_steps_tasks_count(outside: pytest.MonkeyPatch) -> None:
    alone = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
    given(outside, STEP, alone, SLURM_NTASKS="8", SLURM_TASKS_PER_NODE="4(x2)", SLURM_PROCID="0")
    job = allocation()
    assert job is not None
    assert (job.tasks, job.nodes, job.tasks_per_node) == (1, 1, 1)


def test_a_task_of_an_array_is_called_by_the_arrays_id(outside: pytest.MonkeyPatch) -> None:
    given(outside, ONE, SLURM_JOB_ID="124", SLURM_ARRAY_JOB_ID="120", SLURM_ARRAY_TASK_ID="4")
    job = allocation()
    assert job is not None
    assert job.job == "120_4", "scontrol would requeue another task of the array"


def test_a_job_that_says_nothing_of_tasks_has_one(outside: pytest.MonkeyPatch) -> None:
    given(outside, SLURM_JOB_ID="9")
    job = allocation()
    assert job is not None
    assert (job.rank, job.tasks, job.nodes, job.tasks_per_node) == (0, 1, 1, 1)


@pytest.mark.parametrize(("said", "each"), [("4", 4), ("4(x16)", 4), ("2,1", None), ("2(x3),1", None)])
def test_tasks_on_each_node_are_known_where_all_have_as_many(
    outside: pytest.MonkeyPatch, said: str, each: int | None
) -> None:
    given(outside, BATCH, SLURM_TASKS_PER_NODE=said)
    job = allocation()
    assert job is not None
    assert job.tasks_per_node == each


def test_the_jobs_end_is_what_the_controller_says_and_not_what_it_was_at_the_start(
    outside: pytest.MonkeyPatch, scontrol: StandIn
) -> None:
    given(outside, SLURM_JOB_END_TIME="1795357646")
    end = int(time.time()) + 500
    said = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(end))
    scontrol.answers(
        f"JobId=8 JobName=fit TimeLimit=00:10:00 StartTime=2026-11-22T14:25:27 EndTime={said} Deadline=N/A"
    )
    assert ends("8") == end
    assert scontrol.asked == ["show job -o 8"]


def test_where_the_controller_does_not_answer_the_end_is_what_was_said_before_else_what_the_environment_says(
    outside: pytest.MonkeyPatch, scontrol: StandIn
) -> None:
    scontrol.answers("slurm_load_jobs error: Unable to contact slurm controller", code=1)
    assert ends("8") is None
    given(outside, SLURM_JOB_END_TIME="1795357646")
    assert ends("8") == 1795357646.0
    assert ends("8", before=1795350000.0) == 1795350000.0, "a limit that was moved is forgotten"


def test_a_limit_that_was_taken_away_is_no_end_any_more(outside: pytest.MonkeyPatch, scontrol: StandIn) -> None:
    scontrol.answers("JobId=8 TimeLimit=UNLIMITED EndTime=Unknown Deadline=N/A")
    assert ends("8", before=1795350000.0) == math.inf


def test_where_there_is_no_scontrol_nobody_is_asked(outside: pytest.MonkeyPatch, no_scontrol: None) -> None:
    assert scontrol("ping") is None
    assert ends("8") is None
