"""A preempted run asks to come back. Slurm is not needed here: scontrol and scancel are stand-ins that note what is asked."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml

from sft_lightning.ablation.worker import as_command
from sft_lightning.cluster.allocation import Allocation
from sft_lightning.cluster.requeue import (
    ASK_AGAIN,
    LEAD,
    LOOKS,
    PREEMPTED,
    WITHIN,
    come_back,
    requeues,
    run_of,
    watch_the_clock,
)
from tests.cluster.conftest import ROOT, StandIn
from tests.cluster.environments import BATCH, ONE, STEP
from tests.cluster.test_allocation import given
from tests.survival.snapshots import difference, outcome
from tests.survival.zygote import Zygote

JOB = Allocation(job="7", restarts=0, rank=0, tasks=1, nodes=1, tasks_per_node=1, by_srun=True)


def record(run: Path, **content: Any) -> list[str]:
    """Writes run.json as an interrupted fit leaves it; returns the command that names the run."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_text(json.dumps({"schema": 1, "metrics": {}, "status": "interrupted", **content}))
    return ["fit", "--resume", str(run)]


# ---- which run ----


@pytest.mark.parametrize(
    "arguments",
    [
        "fit --resume runs/e/r",
        "fit --resume=runs/e/r --trainer.max_epochs 3",
        "fit --config e.yaml --experiment e --run_id r --ckpt_path last",
        "fit --experiment=e --run_id=r",
        "fit --experiment=e --run-id r",
        "fit --runs_dir runs --experiment e --run_id r",
        "fit --runs-dir=runs --run_id r --experiment=e",
        "ablate --study_folder runs/e --point r",
        "ablate --study-folder=runs/e --point=r",
    ],
)
def test_a_command_line_names_its_run(outside: pytest.MonkeyPatch, arguments: str) -> None:
    assert run_of(arguments.split()) == Path("runs/e/r")


def test_runs_lie_where_the_environment_says(outside: pytest.MonkeyPatch) -> None:
    given(outside, SFT_RUNS_DIR="/scratch/runs", HOME="/home/me")
    named = ["--experiment", "e", "--run_id", "r"]
    assert run_of(["fit", *named]) == Path("/scratch/runs/e/r")
    assert run_of(["fit", "--runs_dir", "~/here", *named]) == Path("/home/me/here/e/r")
    assert run_of(["fit", "--resume", "~/runs/e/r"]) == Path("/home/me/runs/e/r")


@pytest.mark.parametrize("arguments", ["fit --config e.yaml", "fit --experiment e", "fit --run_id r", "--help", ""])
def test_a_command_line_that_names_no_run_has_none(outside: pytest.MonkeyPatch, arguments: str) -> None:
    assert run_of(arguments.split()) is None


# ---- who asks, and when ----


def test_a_preempted_job_is_requeued_and_the_runs_record_says_so(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given(outside, ONE)
    run = tmp_path / "run"
    assert come_back(PREEMPTED, record(run, steps=20)) == PREEMPTED
    assert scontrol.asked == ["requeue 7"]
    assert "saved; job 7 is requeued" in capsys.readouterr().out
    assert json.loads((run / "run.json").read_text())["requeues"] == {"count": 1, "steps": [20], "job": "7"}


def test_each_requeue_is_counted(outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for start, step in enumerate((20, 31, 58)):
        given(outside, ONE, SLURM_RESTART_COUNT=str(start))
        held = json.loads((run / "run.json").read_text()) if start else {}
        assert come_back(PREEMPTED, record(run, **{**held, "steps": step})) == PREEMPTED
    assert json.loads((run / "run.json").read_text())["requeues"] == {"count": 3, "steps": [20, 31, 58], "job": "7"}


def test_a_requeue_before_there_was_a_record_is_counted_by_the_next(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path
) -> None:
    given(outside, ONE)
    run = tmp_path / "run"
    assert come_back(PREEMPTED, ["fit", "--resume", str(run)]) == PREEMPTED
    assert not run.exists(), "a record was made up for a run that had not begun"
    given(outside, ONE, SLURM_RESTART_COUNT="1")
    assert come_back(PREEMPTED, record(run, steps=20)) == PREEMPTED
    assert json.loads((run / "run.json").read_text())["requeues"] == {"count": 2, "steps": [20], "job": "7"}


def test_a_task_of_an_array_asks_for_itself_alone(outside: pytest.MonkeyPatch, scontrol: StandIn) -> None:
    given(outside, ONE, SLURM_JOB_ID="124", SLURM_ARRAY_JOB_ID="120", SLURM_ARRAY_TASK_ID="4")
    assert come_back(PREEMPTED, ["fit"]) == PREEMPTED
    assert scontrol.asked == ["requeue 120_4"]


@pytest.mark.parametrize("launched", [{"LOCAL_RANK": "1"}, {"RANK": "3", "LOCAL_RANK": "0"}])
def test_of_processes_that_one_task_started_only_the_first_asks(
    outside: pytest.MonkeyPatch, scontrol: StandIn, launched: dict[str, str]
) -> None:
    given(outside, ONE, launched)
    assert come_back(PREEMPTED, ["fit"]) == 0
    assert not scontrol.asked, "Lightning's or torchrun's other processes asked too"


def test_only_the_first_rank_asks(outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path) -> None:
    given(outside, STEP)  # of rank 1
    run = tmp_path / "run"
    assert come_back(PREEMPTED, record(run, steps=20)) == 0
    assert not scontrol.asked, "the job was requeued while the first rank may be writing"
    assert "requeues" not in json.loads((run / "run.json").read_text())
    given(outside, SLURM_PROCID="0")
    assert come_back(PREEMPTED, record(run, steps=20)) == PREEMPTED
    assert scontrol.asked == ["requeue 1"]


@pytest.mark.parametrize("code", [0, 1, 2, 130, 143])
def test_a_command_that_ended_otherwise_is_over(outside: pytest.MonkeyPatch, scontrol: StandIn, code: int) -> None:
    given(outside, ONE)
    assert come_back(code, ["fit"]) == code
    assert not scontrol.asked


def test_outside_a_job_nobody_is_asked(outside: pytest.MonkeyPatch, scontrol: StandIn) -> None:
    assert come_back(PREEMPTED, ["fit"]) == PREEMPTED
    assert not scontrol.asked


# ---- where scontrol cannot do it ----


def test_without_scontrol_the_exit_code_asks_whoever_started_the_job(
    outside: pytest.MonkeyPatch, no_scontrol: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given(outside, ONE)
    run = tmp_path / "run"
    assert come_back(PREEMPTED, record(run, steps=20)) == ASK_AGAIN == 75
    assert "no scontrol here: whoever started job 7 requeues it (exit code 75)" in capsys.readouterr().out
    assert requeues(run)["steps"] == [20], "a run that is requeued by a wrapper is not told to have made progress"


def test_what_scontrol_says_against_it_is_passed_on(
    outside: pytest.MonkeyPatch, scontrol: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    given(outside, ONE)
    scontrol.answers("Requested operation is presently disabled\nfor job 7\n", code=1)
    assert come_back(PREEMPTED, ["fit"]) == ASK_AGAIN
    said = "saved; scontrol does not requeue job 7: Requested operation is presently disabled for job 7"
    assert said in capsys.readouterr().err


# ---- when it is enough ----


def refusal(arguments: list[str], scontrol: StandIn, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says why the job does not come back."""
    assert come_back(PREEMPTED, arguments) == 2
    assert not scontrol.asked, "it was said not to be requeued, and is"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sft-lightning: error: not requeued: ")
    return line.partition("requeued: ")[2]


def test_no_job_is_requeued_for_ever(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given(outside, ONE, SFT_MAX_REQUEUES="2")
    run = tmp_path / "run"
    command = record(run, steps=30, requeues={"count": 2, "steps": [10, 20]})
    line = refusal(command, scontrol, capsys)
    assert "2 times" in line and "SFT_MAX_REQUEUES" in line and f"fit --resume {run}" in line, line
    assert requeues(run)["steps"] == [10, 20], "a requeue that was refused is counted"


def test_slurms_own_count_of_requeues_is_heeded_too(
    outside: pytest.MonkeyPatch, scontrol: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    given(outside, ONE, SLURM_RESTART_COUNT="100")
    line = refusal(["fit", "--config", "e.yaml"], scontrol, capsys)
    assert "100 times" in line and "SFT_MAX_REQUEUES" in line and "--resume" not in line, line


def test_a_job_may_be_told_never_to_come_back(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given(outside, ONE, SFT_MAX_REQUEUES="0")
    assert "0 times" in refusal(record(tmp_path / "run", steps=30), scontrol, capsys)


@pytest.mark.parametrize(("most", "variable"), [(5, {}), (2, {"SFT_MAX_IDLE_RETURNS": "2"})])
def test_a_job_that_trains_nothing_between_requeues_is_given_up_after_so_many_returns(
    outside: pytest.MonkeyPatch,
    scontrol: StandIn,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    most: int,
    variable: dict[str, str],
) -> None:
    run = tmp_path / "run"
    command = record(run, steps=20, requeues={"count": 2, "steps": [10, 15]})
    for returned in range(most):
        given(outside, ONE, variable, SLURM_RESTART_COUNT=str(2 + returned))
        assert come_back(PREEMPTED, command) == PREEMPTED, f"given up after {returned} of {most} returns without a step"
        idle = f" ({returned} of {most} requeues in a row without a step)" if returned else ""
        assert capsys.readouterr().out == f"sft-lightning: saved; job 7 is requeued and will resume{idle}\n"
        held = json.loads((run / "run.json").read_text())["requeues"]
        assert held.get("without_step", 0) == returned
    given(outside, SLURM_RESTART_COUNT=str(2 + most))
    (scontrol.folder / "asked").unlink()
    line = refusal(command, scontrol, capsys)
    for value in (f"{most} times in a row", "step 20", "SFT_MAX_IDLE_RETURNS", f"fit --resume {run}"):
        assert value in line, f"the error does not name {value}: {line}"


def test_one_step_sets_the_count_of_idle_returns_to_zero(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given(outside, ONE, SLURM_RESTART_COUNT="5")
    run = tmp_path / "run"
    command = record(run, steps=21, requeues={"count": 5, "steps": [20, 20, 20, 20, 20], "without_step": 4})
    assert come_back(PREEMPTED, command) == PREEMPTED
    assert "without a step" not in capsys.readouterr().out
    held = json.loads((run / "run.json").read_text())["requeues"]
    assert held == {"count": 6, "steps": [20, 20, 20, 20, 20, 21], "job": "7"}


def test_steps_that_a_kill_lost_and_that_were_trained_again_are_no_progress(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given(outside, ONE, SLURM_RESTART_COUNT="2")
    command = record(tmp_path / "run", steps=25, requeues={"count": 2, "steps": [20, 31]})
    assert come_back(PREEMPTED, command) == PREEMPTED
    assert "(1 of 5 requeues in a row without a step)" in capsys.readouterr().out


def test_a_job_that_never_gets_to_its_first_step_is_given_up_after_five_returns(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is there a record to count in: Slurm's own count serves."""
    command = ["ablate", "--study_folder", str(tmp_path), "--point", "run"]
    for restarts in range(5):
        given(outside, ONE, SLURM_RESTART_COUNT=str(restarts))
        assert come_back(PREEMPTED, command) == PREEMPTED, f"given up after {restarts} returns"
        assert (f"{restarts} of 5 requeues in a row" in capsys.readouterr().out) == bool(restarts)
    given(outside, ONE, SLURM_RESTART_COUNT="5")
    (scontrol.folder / "asked").unlink()
    line = refusal(command, scontrol, capsys)
    assert "5 times in a row" in line and "step 0" in line, line


def test_a_damaged_record_does_not_keep_the_job_from_coming_back(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path
) -> None:
    given(outside, ONE)
    run = tmp_path / "run"
    for content in ("", "[]", '{"requeues": 3}', '{"requeues": {"steps": [null]}, "metrics": {}}'):
        run.mkdir(exist_ok=True)
        (run / "run.json").write_text(content)
        (scontrol.folder / "asked").write_text("")
        code = come_back(PREEMPTED, ["fit", "--resume", str(run)])
        assert (code, scontrol.asked) == (PREEMPTED, ["requeue 7"]), f"with {content!r} as its record"


# ---- the deadline ----


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Any:
    """When SIGUSR1 came to this process."""
    came: list[float] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        came.append(time.time())

    before = signal.signal(signal.SIGUSR1, handle)
    yield came
    signal.signal(signal.SIGUSR1, before)


def wait_for(came: list[float], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not came and time.monotonic() < until:
        time.sleep(0.02)


def test_a_run_stops_in_time_where_no_signal_comes(
    outside: pytest.MonkeyPatch, no_scontrol: None, signals: list[float]
) -> None:
    end = int(time.time()) + 1002
    given(outside, SLURM_JOB_END_TIME=str(end), SFT_STOP_BEFORE_S="1000.5")
    watch_the_clock(JOB)
    wait_for(signals, 30)
    assert signals, "the job's end was near, and the run was not told"
    assert signals[0] >= end - 1000.5, "it was told too early"


def when(seconds: float) -> str:
    return "EndTime=" + time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + seconds))


WATCHING = """
import signal, time
from sft_lightning.cluster.allocation import allocation
from sft_lightning.cluster.requeue import watch_the_clock
signal.signal(signal.SIGUSR1, lambda *_: print("told to stop", flush=True))
watch_the_clock(allocation())
while True:
    time.sleep(0.1)
"""


def test_an_end_that_was_put_off_is_noticed(outside: pytest.MonkeyPatch, scontrol: StandIn) -> None:
    """In a process of its own, which would watch on for as long as it lives."""
    scontrol.answers(when(12))
    env = {**os.environ, **ONE, "SFT_STOP_BEFORE_S": "10"}
    process = subprocess.Popen([sys.executable, "-c", WATCHING], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        for times in (1, 2):
            until = time.monotonic() + 60
            while len(scontrol.asked) < times:
                assert time.monotonic() < until, f"Slurm was not asked {times} times when the job ends"
                time.sleep(0.01)
            scontrol.answers(when(5000))
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
    finally:
        process.kill()
    assert process.communicate()[0] == "", "the run was stopped though its job had been given more time"


def test_an_end_that_was_brought_forward_is_noticed(outside: pytest.MonkeyPatch, scontrol: StandIn) -> None:
    scontrol.answers(when(50000))
    env = {**os.environ, **ONE, "SFT_STOP_BEFORE_S": "10", "SLURM_JOB_END_TIME": str(int(time.time()) + 50000)}
    looks = WATCHING.replace("watch_the_clock(alloc", "requeue.LOOKS = 0.3\nwatch_the_clock(alloc")
    code = f"from sft_lightning.cluster import requeue\n{looks}"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while len(scontrol.asked) < 3:
            assert time.monotonic() < until, "Slurm was not asked again when the job ends"
            time.sleep(0.01)
        scontrol.answers(when(5))
        assert process.stdout is not None
        assert process.stdout.readline() == "told to stop\n"
    finally:
        process.kill()
        process.communicate()


def test_the_controller_is_looked_at_often_enough_and_not_too_often() -> None:
    assert 30 <= LOOKS <= LEAD, "an end that is brought forward must be noticed in time, and hundreds of jobs ask"


@pytest.mark.parametrize("other", [STEP, {**ONE, "LOCAL_RANK": "1"}], ids=["of srun", "of Lightning"])
def test_of_several_ranks_only_the_first_asks_for_the_end(
    outside: pytest.MonkeyPatch, scontrol: StandIn, other: dict[str, str]
) -> None:
    scontrol.answers(when(-10))
    env = {**os.environ, **other}
    process = subprocess.Popen([sys.executable, "-c", WATCHING], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.kill()
    assert process.communicate()[0] == "" and not scontrol.asked, "each rank asks the controller"


def test_the_end_is_not_forgotten_where_slurm_does_not_answer_when_it_comes(
    outside: pytest.MonkeyPatch, scontrol: StandIn, signals: list[float]
) -> None:
    scontrol.answers(when(12))
    given(outside, SFT_STOP_BEFORE_S="10")
    watch_the_clock(JOB)
    while not scontrol.asked:
        time.sleep(0.01)
    scontrol.answers("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", code=1)
    wait_for(signals, 30)
    assert signals, "the controller was away for a moment, and the run goes on until it is killed"


# ---- a whole fit, without Slurm ----

FIT = (
    "fit", "--config", "experiments/digits/distill.yaml", "--trainer.max_epochs", 12, "--wandb", "disabled",
    "--trainer.check_val_every_n_epoch", 3, "--network.init_args.dropout", 0.2, "--model.init_args.ema_decay", 0.9,
    "--data.augment", "[crop]", "--trainer.accumulate_grad_batches", 2, "--experiment", "x", "--ckpt_path", "last",
)  # fmt: skip


@pytest.mark.slow
def test_a_fit_that_is_preempted_again_and_again_ends_as_if_nothing_had_been(
    outside: pytest.MonkeyPatch,
    scontrol: StandIn,
    zygote: Zygote,
    tmp_path: Path,
) -> None:
    """The stand-in for scancel signals the process that calls it, after a while."""
    (scontrol.folder / "scancel").write_text('#!/bin/sh\nsleep 0.05\nkill -s USR1 "$(ps -o ppid= -p $PPID)"\n')
    (scontrol.folder / "scancel").chmod(0o755)
    moments = ["step 8", "validation 2", "step 3 twice", "save 1", "test 1"]
    preempted = {"class_path": "tests.cluster.moments.Preempted", "init_args": {"moments": moments}}
    (tmp_path / "moments.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [preempted]}}))
    env = {"SFT_RUNS_DIR": str(tmp_path / "runs"), "PATH": os.environ["PATH"]}
    assert zygote.run([*FIT, "--run_id", "whole"], tmp_path / "out", env) == 0, (tmp_path / "out").read_text()
    command = [*FIT, "--config", tmp_path / "moments.yaml", "--run_id", "preempted"]
    for start, moment in enumerate([*moments, "the end"]):
        job = {**env, **ONE, "SLURM_RESTART_COUNT": str(start)}
        code = zygote.run(command, tmp_path / "out", job)
        expected = 0 if moment == "the end" else PREEMPTED
        assert code == expected, f"at {moment} it ended with {code}:\n{(tmp_path / 'out').read_text()}"
    assert [a for a in scontrol.asked if a.startswith("requeue")] == ["requeue 7"] * len(moments)
    run = tmp_path / "runs/x/preempted"
    found = difference(outcome(tmp_path / "runs/x/whole"), outcome(run))
    assert found is None, f"preempted and come back {len(moments)} times, the run differs: {found}"
    held = json.loads((run / "run.json").read_text())["requeues"]
    assert held["count"] == len(moments)
    assert held["steps"] == sorted(set(held["steps"])), "a requeue without progress was not refused"


def test_a_signal_during_the_imports_asks_to_come_back_and_leaves_nothing(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sft_lightning", *map(str, FIT), "--runs_dir", tmp_path / "runs", "--run_id", "early"],
        cwd=ROOT,
        env={**os.environ, **BATCH, "SLURM_NTASKS": "1", "SLURM_NNODES": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        maps = Path(f"/proc/{process.pid}/maps")
        while "libtorch" not in maps.read_text():
            assert process.poll() is None, f"it ended before: {process.communicate()}"
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == PREEMPTED, f"it ended with {process.returncode}: {err}"
    assert scontrol.asked[-1] == "requeue 1", err
    assert "Traceback" not in err, err
    assert not (tmp_path / "runs").exists(), "a run was begun"


STUCK = """
import ctypes, signal
from sft_lightning.cluster import requeue
from sft_lightning.core.signals import SIGNALS

requeue.GRACE = 0.5
signal.signal(signal.SIGUSR1, requeue.hold)
SIGNALS.install()
requeue.watch_the_signal(["fit"])
lock, system = ctypes.create_string_buffer(256), ctypes.CDLL(None)
print("stuck", flush=True)
system.pthread_mutex_lock(lock)
system.pthread_mutex_lock(lock)  # for ever, and no signal wakes it
"""


def stuck_until(signum: signal.Signals) -> tuple[int, str]:
    """Exit code and output of a process that hangs in a system call and gets a signal."""
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, env={**os.environ, **ONE}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        states = ""
        while not states.endswith("SSSSS"):  # it sleeps, and not only for a moment
            states += Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            time.sleep(0.02)
        process.send_signal(signum)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, said


def test_a_process_that_hangs_in_the_system_before_training_asks_to_come_back_all_the_same(
    outside: pytest.MonkeyPatch, scontrol: StandIn
) -> None:
    code, said = stuck_until(signal.SIGUSR1)
    assert code == PREEMPTED, f"it ended with {code}"
    assert scontrol.asked == ["requeue 7"]
    assert "saved; job 7 is requeued" in said


SLOW = """
import signal, sys, time
from sft_lightning.cluster import requeue
from sft_lightning.core.signals import SIGNALS

requeue.GRACE = 0.2
SIGNALS.install()
requeue.watch_the_signal(["fit"])
came = []
with SIGNALS.given_to(lambda signum, _: came.append(signum)):
    print("begun", flush=True)
    while not came:
        time.sleep(0.01)
    time.sleep(1.0)  # saves, or waits for a command that does
print("ended", flush=True)
sys.exit(5)
"""


def test_what_reacts_to_a_signal_in_its_own_time_is_not_cut_off(outside: pytest.MonkeyPatch, scontrol: StandIn) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=ROOT, env={**os.environ, **ONE}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGUSR1)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said) == (5, "ended\n"), "it was ended, and its job requeued, before it had saved"
    assert not scontrol.asked


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_hangs_in_the_system_ends_when_it_is_asked_to(
    outside: pytest.MonkeyPatch, scontrol: StandIn, asked: signal.Signals
) -> None:
    code, _ = stuck_until(asked)
    assert code == 128 + asked, f"it ended with {code}"
    assert not scontrol.asked, "nobody took its node away"


HUNG = """
import sys, time
from pathlib import Path
from sft_lightning.runs.rank_failures import Ranks
from sft_lightning.runs.session import RunSession

Ranks.GRACE, folder = 0.2, Path(sys.argv[3])
Ranks(folder, 1).report(138, "Interrupted: SIGUSR1")
Ranks(folder, 0).watch(RunSession("", None, None).give_up)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_rank_that_hangs_while_another_was_preempted_brings_the_job_back_once(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", HUNG, "fit", "--resume", str(tmp_path)]
    env = {**os.environ, **STEP, "SLURM_PROCID": "0"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, scontrol.asked) == (PREEMPTED, ["requeue 1"]), f"the job is left to nobody: {done.stderr}"


TWICE = """
import sys, threading, time
from sft_lightning.cluster.requeue import last_word, leave

def later():
    time.sleep(0.2)
    leave(138, ["fit"])

threading.Thread(target=later, daemon=True).start()
time.sleep({"the command": 0.0, "the thread": 0.4, "neither": 0.2}[sys.argv[1]])
sys.exit(last_word(138, ["fit"]))
"""


@pytest.mark.parametrize("first", ["the command", "the thread", "neither"])
def test_a_job_is_requeued_once_though_the_command_ends_while_it_is_ended(
    outside: pytest.MonkeyPatch, scontrol: StandIn, first: str
) -> None:
    scontrol.takes(0.5)
    command, env = [sys.executable, "-c", TWICE, first], {**os.environ, **ONE}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, scontrol.asked) == (PREEMPTED, ["requeue 7"]), done.stderr


def test_a_command_within_another_leaves_the_requeue_to_it(outside: pytest.MonkeyPatch, scontrol: StandIn) -> None:
    """A study that runs in one job: it is requeued when all its points have been saved."""
    given(outside, ONE, {WITHIN: "1"})
    assert come_back(PREEMPTED, ["fit"]) == PREEMPTED
    watch_the_clock(JOB)
    time.sleep(0.2)
    assert not scontrol.asked


@pytest.mark.slow
def test_a_point_that_is_a_command_of_its_own_hears_the_signal_from_its_parent_which_alone_asks(
    outside: pytest.MonkeyPatch, scontrol: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(outside, ONE, OMP_NUM_THREADS="1")
    monkeypatch.chdir(ROOT)
    run = tmp_path / "runs/x/point"
    preempted = {"class_path": "tests.cluster.moments.Preempted", "init_args": {"moments": ["step 8 silent"]}}
    (tmp_path / "moments.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [preempted]}}))
    said = [*FIT, "--config", tmp_path / "moments.yaml", "--runs_dir", tmp_path / "runs", "--run_id", "point"]

    def signal_the_parent() -> None:
        until = time.monotonic() + 300
        while not (run / "metrics.jsonl").is_file() and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=signal_the_parent, daemon=True).start()
    code = as_command([str(a) for a in said])
    assert code == PREEMPTED, f"the point ended with {code}"
    assert not scontrol.asked, "the point asked for the requeue, or when the job ends, which is its parent's to do"
    assert json.loads((run / "run.json").read_text())["steps"] == 4, "it was not stopped at the step's end, and saved"
    assert come_back(code, ["ablate", "--config", "study.yaml"]) == PREEMPTED
    assert scontrol.asked == ["requeue 7"]


AT_THE_END = """
import os, signal, sys
from sft_lightning.cli.main import command

class Last:  # is taken away when Python has put its signal handlers away already
    def __del__(self, kill=os.kill, process=os.getpid(), signum=signal.SIGUSR1):
        kill(process, signum)

last = Last()
sys.argv = ["sft_lightning", "--version"]
sys.exit(command())
"""


def test_a_signal_while_python_takes_itself_down_does_not_make_a_failure_of_a_finished_run() -> None:
    done = subprocess.run([sys.executable, "-c", AT_THE_END], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"it ended with {done.returncode}: {done.stderr}"
