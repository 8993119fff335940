"""A run that Slurm takes its node away from: everything is saved, and the job asks to come back.

SIGUSR1 is the word: Slurm sends it some time before the job's end (`--signal=USR1@180`), people by `scancel --signal=USR1`,
and this process to itself where the end is near and nothing came. The run stops at a step's end (see signals.py), then the
first rank has the job requeued, which begins again by the same command and resumes exactly.
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
from sft_lightning.core.signals import PREEMPT, SIGNALS

LEAD, LEAD_VARIABLE = 120.0, "SFT_STOP_BEFORE_S"
"""Seconds before the job's end at which a run stops by itself: enough for a step and a save"""
MOST, MOST_VARIABLE = 100, "SFT_MAX_REQUEUES"
MOST_IDLE, MOST_IDLE_VARIABLE = 5, "SFT_MAX_IDLE_RETURNS"
"""Returns in a row that got to no step: imports alone take 20 s, and where nodes are taken away often that is bad luck"""
WITHIN = "SFT_WITHIN"
"""Set where another command of ours started this one, and asks for the requeue itself once all that it started has ended"""
LOOKS = 60.0
"""Seconds between two looks at the job's end, which may have been moved"""
GRACE = 10.0
"""Seconds in which the main thread hears of a signal, if it ever does"""
ASK_AGAIN = 75
"""Exit code: saved, and to be requeued by whoever started this (EX_TEMPFAIL of sysexits.h), which has no scontrol"""
PREEMPTED = 128 + PREEMPT


def hold(signum: int = PREEMPT, frame: FrameType | None = None) -> None:
    """Before a command stands, and after it: SIGUSR1 does not end this process, which would not come back."""


def setting(name: str, default: float) -> float:
    """A number from the environment."""
    try:
        return float(os.environ.get(name, default))
    except ValueError:
        return default


# ---- when ----


def watch_the_clock(job: Allocation) -> None:
    """Sends this process SIGUSR1 some time before the job's end, whatever Slurm sends. The end may be moved meanwhile.

    The first rank alone looks: the others stop with it, and the controller is not asked by each. A command that another
    one started is told by that.
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
        time.sleep(min(left, LOOKS * draw.uniform(0.8, 1.2)))  # an array's tasks do not all ask at once
        end = ends(job, end)


def is_first(job: Allocation) -> bool:
    """Whether this process speaks for all of the job's."""
    return not job.rank and not any(int_or_default(os.environ.get(name)) for name in ("RANK", "LOCAL_RANK"))


def watch_the_signal(arguments: list[str]) -> None:
    """Ends this rank where it hears SIGUSR1 and cannot heed it: it waits for one that the same signal ended while it
    imported, in a call of the system's, for half an hour. Once training has begun ranks agree (see callbacks/checkpoints.py).

    Args:
        arguments: Of the command line: they name the run.
    """
    heard, rings = os.pipe()
    os.set_blocking(rings, False)
    signal.set_wakeup_fd(rings, warn_on_full_buffer=False)  # is written to at once, whatever the main thread does
    threading.Thread(target=_unstick, args=(heard, arguments), daemon=True, name="signal").start()


def _unstick(heard: int, arguments: list[str]) -> None:
    while os.read(heard, 1)[0] != PREEMPT:
        continue
    time.sleep(GRACE)
    if SIGNALS.asked is None and not SIGNALS.waits:
        leave(PREEMPTED, arguments)


# ---- what then ----

_LEAVING = threading.Lock()
"""Taken for good by the thread that ends this process: it asks for the requeue, and no other"""


def leave(code: int, arguments: list[str]) -> None:
    """From a thread: ends this process as its command would have ended with `code`."""
    be_the_one()
    try:
        code = come_back(code, arguments)
        sys.stdout.flush()
    finally:
        os._exit(code)


def last_word(code: int, arguments: list[str]) -> int:
    """`come_back` where the command has ended by itself."""
    be_the_one()
    return come_back(code, arguments)


def be_the_one() -> None:
    """Comes back in the first thread that calls it, which ends this process; any other waits for that."""
    if not _LEAVING.acquire(blocking=False):
        threading.Event().wait()


def come_back(code: int, arguments: list[str]) -> int:
    """Where a command was preempted, has the job requeued. Returns the exit code.

    Args:
        code: The command's exit code.
        arguments: Of the command line: they name the run.
    """
    job = allocation()
    if code != PREEMPTED or job is None:
        return code
    if not is_first(job):
        return 0  # the first speaks for all, and may be writing yet
    if WITHIN in os.environ:
        return code
    run = run_of(arguments)
    if (why := refused(job, run)) is not None:
        print(f"sft-lightning: error: not requeued: {why}", file=sys.stderr)
        return 2
    idle = idle_returns(job, run)
    told = f" (returned {idle} of {most_idle()} times without a step)" if idle else ""
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
    print(f"sft-lightning: saved; job {job.job} is requeued, and goes on where it was{told}", flush=True)
    return code


def run_of(arguments: list[str]) -> Path | None:
    """The run directory that a command line names: by --resume, or by --experiment and --run_id; None where it does not."""
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
    """Why the job is not to come back; None where it is."""
    most = int(setting(MOST_VARIABLE, MOST))
    held = requeues(run)
    count = max(job.restarts, len(held["steps"]))
    where = "" if run is None else f"; fit --resume {run} goes on"
    if count >= most:
        return f"it was requeued {count} times already, of {most} ({MOST_VARIABLE}){where}"
    idle = idle_returns(job, run)
    if idle >= most_idle():
        return (
            f"it returned {idle} times in a row without training a step (step {held['now']}), of {most_idle()} "
            f"({MOST_IDLE_VARIABLE}): give it more time than starting takes{where}"
        )
    return None


def most_idle() -> int:
    """How many returns in a row may get to no step."""
    return max(1, int(setting(MOST_IDLE_VARIABLE, MOST_IDLE)))


def idle_returns(job: Allocation, run: Path | None) -> int:
    """How many times in a row the job came back and trained no step; one step sets it to 0. 0 for a command without a run."""
    if run is None:
        return 0
    held = requeues(run)
    before = [0] * (job.restarts - len(held["steps"])) + held["steps"]  # some came before there was a record to say so
    return next((n for n, step in enumerate(reversed(before)) if step < held["now"]), len(before))


def requeues(run: Path | None) -> dict[str, Any]:
    """`steps` at which a run was requeued, and the step it is at `now`."""
    try:
        content = json.loads((run / "run.json").read_text()) if run is not None else {}
        steps = [int(s) for s in content.get("requeues", {}).get("steps", [])]
        return {"steps": steps, "now": int(content.get("steps", 0))}
    except (OSError, ValueError, AttributeError, TypeError):
        return {"steps": [], "now": 0}


def note(job: Allocation, run: Path | None) -> None:
    """Adds this requeue to the run's record, where there is one."""
    if run is None or not (run / "run.json").is_file():
        return
    from sft_lightning.runs.record import Record

    held = requeues(run)
    steps = [*held["steps"], held["now"]]
    count = max(len(steps), job.restarts + 1)  # it may have been requeued before there was a record
    with suppress(UserError, OSError):  # damaged, or no room: the job comes back all the same
        idle = idle_returns(job, run)
        about = {"count": count, "steps": steps, "job": job.job, **({"without_step": idle} if idle else {})}
        Record.read(run / "run.json").update(requeues=about)
