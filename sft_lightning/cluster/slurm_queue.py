"""Lists this user's waiting and running jobs by one call of squeue."""

import subprocess
from typing import NamedTuple


class Queued(NamedTuple):
    """A job, or a task of an array, that waits or runs."""

    state: str
    """State as Slurm names it, in lower case: pending, running, completing, …"""
    reason: str
    """Why it waits; empty if Slurm gives no reason"""
    name: str


def queue() -> dict[str, Queued] | None:
    """Returns {id (`120` or `120_4`): job} of this user's jobs that wait or run; None if Slurm does not answer."""
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
