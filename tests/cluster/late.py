"""For `--import tests.cluster.late`: the second rank of a job's first start imports until the job is preempted.

It has that done itself, once the first rank waits for it: when the port is open on which ranks find each other.
"""

import os
import subprocess
import time
from pathlib import Path


def is_open(port: int) -> bool:
    """Whether a process of this machine listens there."""
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    return any(int(row[1].rpartition(":")[2], 16) == port and row[3] == "0A" for row in rows)


if os.environ.get("SLURM_PROCID") == "1" and "SLURM_RESTART_COUNT" not in os.environ:
    job, until = os.environ["SLURM_JOB_ID"], time.monotonic() + 600
    while not is_open(15000 + int(job[-4:])):
        assert time.monotonic() < until, "the first rank does not wait for this one"
        time.sleep(0.1)
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    time.sleep(600)
