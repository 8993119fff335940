"""Runs a study on this machine: gives due jobs to worker processes and writes results as points end."""

import signal
import sys
import time
from typing import Any

from sft_lightning.ablation import collect
from sft_lightning.ablation.budgeted_study import Budget
from sft_lightning.ablation.disk_usage import drop
from sft_lightning.ablation.progress import Progress
from sft_lightning.ablation.scheduler import Scheduler
from sft_lightning.ablation.worker_pool import Pool
from sft_lightning.core.signals import SIGNALS, Interrupted
from sft_lightning.runs.status import FAILED, FINISHED

GRACE = 120.0
"""Seconds that points have to save their state after a request to stop."""

EVERY = 10.0
"""Seconds between writes of study.json and points.csv while points run."""


def run_local(
    scheduler: Scheduler,
    pool: Pool,
    progress: Progress,
    budget: Budget | None,
    about: dict[str, Any],
    tidy: bool = False,
) -> str:
    """Runs jobs until none is due. Returns the study's status: 'finished', or 'failed' if points failed.

    `tidy` removes weights that no test needs any more. After a request to stop, raises Interrupted once all is saved.
    """
    SIGNALS.waits = True
    written, waited = 0.0, False
    if budget is not None:
        progress.say(budget.begin_timing(scheduler, len(pool.workers)))
    try:
        while True:
            if SIGNALS.asked is not None:
                raise Interrupted(SIGNALS.asked)
            jobs = scheduler.jobs()
            if not jobs and not scheduler.under_way and scheduler.elsewhere():
                if not waited:
                    print("waiting for points that other processes run", file=sys.stderr, flush=True)
                waited = True
                time.sleep(1)
                continue
            if not jobs and not scheduler.under_way:
                said = None if budget is None else budget.settle(scheduler, len(pool.workers))
                if budget is None or said is None:
                    break
                progress.say(said)
                about["budget"] = budget.record
                collect.write_file(scheduler)
                collect.write(scheduler, "running", about)
                continue
            for job, point in jobs[: pool.idle]:
                scheduler.folder.plan(scheduler.points[point])
                scheduler.under_way.add((job, point))
                pool.give(job, point)
            for job, point, note in pool.results(timeout=0.5):
                scheduler.ended(job, point)
                progress.ended(job, point, note)
            progress.show()
            if time.monotonic() - written > EVERY:
                written = time.monotonic()
                collect.write(scheduler, "running", about)
                if tidy:
                    drop(scheduler)
    except Interrupted:
        stop(scheduler, pool)
        raise
    finally:
        progress.close()
    if tidy:
        drop(scheduler)
    failed = any(scheduler.look(p).status == "failed" or scheduler.look(p).test_failed for p in scheduler.all_points())
    return FAILED if failed else FINISHED


def stop(scheduler: Scheduler, pool: Pool) -> None:
    """Lets running points save and end; a second Ctrl-C ends them at once."""
    print("stopping: running points are saved; Ctrl-C once more ends them at once", file=sys.stderr, flush=True)
    pool.stop(signal.SIGTERM)
    end = time.monotonic() + GRACE
    SIGNALS.asked, SIGNALS.waits = None, True
    while scheduler.under_way and time.monotonic() < end and SIGNALS.asked is None:
        for job, point, _ in pool.results(timeout=0.2):
            scheduler.ended(job, point)
    pool.stop(signal.SIGKILL)
    scheduler.standing.clear()
