"""Saves a run before Slurm takes its node away, and has the job requeued.

The signal is SIGUSR1. Slurm sends it some time before the job's end (`--signal=USR1@180`), users by `scancel
--signal=USR1`, and this process sends it to itself if the end is near and no signal came. The run stops at a step's end
(see signals.py). Then the first rank has the job requeued; the job runs the same command again and resumes exactly.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from sft_lightning.cluster.allocation import Allocation, allocation, ends, int_or_default, scontrol
from sft_lightning.core.errors import UserError
from sft_lightning.core.signals import HANDLED, PREEMPT, SIGNALS

LEAD, LEAD_VARIABLE = 120.0, "SFT_STOP_BEFORE_S"
"""Seconds before the job's end at which a run stops by itself: enough for a step and a save"""
MOST, MOST_VARIABLE = 100, "SFT_MAX_REQUEUES"
MOST_IDLE, MOST_IDLE_VARIABLE = 5, "SFT_MAX_IDLE_RETURNS"
"""Most requeues in a row without a training step: imports take 20 s, and some nodes are taken away sooner than that"""
WITHIN = "SFT_WITHIN"
"""Set if another command of ours started this one: that command asks for the requeue once all its processes have ended"""
LOOKS = 60.0
"""Seconds between two checks of the job's end, which may change"""
GRACE = 10.0
"""Seconds that the main thread has to react to a signal"""
ASK_AGAIN = 75
"""Exit code without scontrol: saved, and whoever started this is to requeue it (EX_TEMPFAIL of sysexits.h)"""
PREEMPTED = 128 + PREEMPT


def hold(signum: int = PREEMPT, frame: FrameType | None = None) -> None:
    """Ignores SIGUSR1 before a command is set up and after it: the signal would kill this process without a requeue."""


def setting(name: str, default: float) -> float:
    """Reads a number from the environment."""
    try:
        return float(os.environ.get(name, default))
    except ValueError:
        return default


# ---- when ----


def watch_the_clock(job: Allocation) -> None:
    """Sends this process SIGUSR1 some time before the job's end, even if Slurm does not. Follows changes of the end.

    Only the first rank watches: the others stop with it, and the controller gets one request instead of many. A command
    that another one started gets the signal from that one.
    """
    if is_first(job) and WITHIN not in os.environ:
        lead = setting(LEAD_VARIABLE, LEAD)
        threading.Thread(target=_watch, args=(job.job, lead), daemon=True, name="deadline").start()


def _watch(job: str, lead: float) -> None:
    end, draw = ends(job), random.Random()
    while end is not None:
        left = end - lead - time.time()
        if left <= 0:
            os.kill(os.getpid(), PREEMPT)
            return
        time.sleep(min(left, LOOKS * draw.uniform(0.8, 1.2)))  # spreads the requests of an array's tasks
        end = ends(job, end)


def is_first(job: Allocation) -> bool:
    """Tells whether this process is the job's first, which acts for all."""
    return not job.rank and not any(int_or_default(os.environ.get(name)) for name in ("RANK", "LOCAL_RANK"))


def watch_the_signal(arguments: list[str]) -> None:
    """Ends this process if it gets SIGTERM, SIGUSR1 or Ctrl-C but cannot react to it.

    Python's handlers run between two calls, and a rank that waits for another one does so in one call of half an hour: for
    a node that has not come, or for a rank that the same signal ended during its imports. Once training has begun, ranks
    agree on when to stop (see callbacks/checkpoints.py).

    Args:
        arguments: Arguments of the command line, which name the run.
    """
    heard, rings = os.pipe()
    os.set_blocking(rings, False)
    signal.set_wakeup_fd(rings, warn_on_full_buffer=False)  # written to at once, even if the main thread is blocked
    os.register_at_fork(after_in_child=_deaf)
    threading.Thread(target=_unstick, args=(heard, arguments), daemon=True, name="signal").start()


def _deaf() -> None:
    with suppress(ValueError):  # forked by a thread, in which Python allows no change
        signal.set_wakeup_fd(-1)


def _unstick(heard: int, arguments: list[str]) -> None:
    while True:
        signum = os.read(heard, 1)[0]
        if signum in HANDLED:
            came = time.monotonic() - 1.0  # the handler may have been quicker than this thread
            time.sleep(GRACE)
            if SIGNALS.reacted < came and SIGNALS.asked is None and not SIGNALS.waits:
                leave(128 + signum, arguments)


# ---- what then ----

_LEAVING = threading.Lock()
"""Taken for good by the one thread that asks for the requeue and ends this process"""


def leave(code: int, arguments: list[str]) -> None:
    """Ends this process from any thread, as its command would have ended with `code`."""
    be_the_one()
    try:
        code = come_back(code, arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


def last_word(code: int, arguments: list[str]) -> int:
    """Calls `come_back` after the command has ended by itself. Returns the exit code."""
    be_the_one()
    return come_back(code, arguments)


def be_the_one() -> None:
    """Returns only in the first thread that calls it, which then ends this process; any other waits."""
    if not _LEAVING.acquire(blocking=False):
        threading.Event().wait()


def come_back(code: int, arguments: list[str]) -> int:
    """Has the job requeued if the command was preempted. Returns the exit code.

    Args:
        code: The command's exit code.
        arguments: Arguments of the command line, which name the run.
    """
    job = allocation()
    if code != PREEMPTED or job is None:
        return code
    if not is_first(job):
        return 0  # the first rank acts for all, and may still be writing
    if WITHIN in os.environ:
        return code
    run = run_of(arguments)
    if (why := refused(job, run)) is not None:
        print(f"sft-lightning: error: not requeued: {why}", file=sys.stderr)
        return 2
    idle = idle_returns(job, run)
    told = f" ({idle} of {most_idle()} requeues in a row without a step)" if idle else ""
    note(job, run)
    answer = scontrol("requeue", job.job)
    if answer is None:
        print(
            f"sft-lightning: saved; no scontrol here: whoever started job {job.job} requeues it "
            f"(exit code {ASK_AGAIN}){told}"
        )
        return ASK_AGAIN
    if answer.returncode:
        said = " ".join(answer.stderr.split()) or f"exit code {answer.returncode}"
        print(f"sft-lightning: saved; scontrol does not requeue job {job.job}: {said}", file=sys.stderr)
        return ASK_AGAIN
    print(f"sft-lightning: saved; job {job.job} is requeued and will resume{told}", flush=True)
    return code


def run_of(arguments: list[str]) -> Path | None:
    """Returns the run directory that a command line names, by --resume or by --experiment and --run_id; else None."""
    named: dict[str, str] = {}
    for i, argument in enumerate(arguments):
        name, is_given, value = argument.partition("=")
        if name.startswith("--"):
            following = arguments[i + 1] if i + 1 < len(arguments) else ""
            named[name[2:].replace("-", "_")] = value if is_given else following
    if "study_folder" in named and "point" in named:
        return Path(named["study_folder"]) / named["point"]
    if "resume" in named:
        return Path(named["resume"]).expanduser()
    root = named.get("runs_dir") or os.environ.get("SFT_RUNS_DIR") or "runs"
    if "experiment" in named and "run_id" in named:
        return Path(root).expanduser() / named["experiment"] / named["run_id"]
    return None


def refused(job: Allocation, run: Path | None) -> str | None:
    """Returns why the job must not be requeued; None if it may."""
    most = int(setting(MOST_VARIABLE, MOST))
    held = requeues(run)
    count = max(job.restarts, len(held["steps"]))
    where = "" if run is None else f"; resume by fit --resume {run}"
    if count >= most:
        return f"it was already requeued {count} times, of {most} allowed ({MOST_VARIABLE}){where}"
    idle = idle_returns(job, run)
    if idle >= most_idle():
        return (
            f"it was requeued {idle} times in a row without training a step (step {held['now']}), of {most_idle()} allowed "
            f"({MOST_IDLE_VARIABLE}); give it more time than starting takes{where}"
        )
    return None


def most_idle() -> int:
    """Returns how many requeues in a row may pass without a training step."""
    return max(1, int(setting(MOST_IDLE_VARIABLE, MOST_IDLE)))


def idle_returns(job: Allocation, run: Path | None) -> int:
    """Counts the last requeues in a row without a training step; 0 for a command without a run."""
    if run is None:
        return 0
    held = requeues(run)
    before = [0] * (job.restarts - len(held["steps"])) + held["steps"]  # requeues before the run had a record
    return next((n for n, step in enumerate(reversed(before)) if step < held["now"]), len(before))


def requeues(run: Path | None) -> dict[str, Any]:
    """Returns {"steps": steps at which a run was requeued, "now": its current step}."""
    try:
        content = json.loads((run / "run.json").read_text()) if run is not None else {}
        steps = [int(s) for s in content.get("requeues", {}).get("steps", [])]
        return {"steps": steps, "now": int(content.get("steps", 0))}
    except (OSError, ValueError, AttributeError, TypeError):
        return {"steps": [], "now": 0}


def note(job: Allocation, run: Path | None) -> None:
    """Adds this requeue to the run's record, if there is one."""
    if run is None or not (run / "run.json").is_file():
        return
    from sft_lightning.runs.record import Record

    held = requeues(run)
    steps = [*held["steps"], held["now"]]
    count = max(len(steps), job.restarts + 1)  # some requeues may precede the record
    with suppress(UserError, OSError):  # damaged or no space: the job is requeued all the same
        idle = idle_returns(job, run)
        about = {"count": count, "steps": steps, "job": job.job, **({"without_step": idle} if idle else {})}
        Record.read(run / "run.json").update(requeues=about)
