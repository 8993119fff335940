"""What of this user's waits or runs on the cluster, asked once for all jobs."""

import subprocess
from typing import NamedTuple


class Queued(NamedTuple):
    """A job, or a task of an array, that is not over."""

    state: str
    """In Slurm's words, small: pending, running, completing, …"""
    reason: str
    """Why it waits; empty where Slurm does not say"""
    name: str


def queue() -> dict[str, Queued] | None:
    """{job, as `120` or `120_4`: what of it} of this user's jobs that are not over; None where no Slurm answers."""
    try:
        done = subprocess.run(
            ["squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r|%j"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    found = {}
    for line in done.stdout.splitlines():
        job, state, reason, name = (*line.split("|", 3), "", "", "")[:4]
        found[job] = Queued(state.lower(), "" if reason in ("None", "") else reason, name)
    return found
