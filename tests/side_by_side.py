"""Runs pytest on several sets of tests at the same time, in processes forked from one that has imported what all of them need.

    python -m tests.side_by_side ARGUMENTS -- ARGUMENTS ...

Each part gets its own arguments of pytest, and a process that its tests fork others from. The first part prints as it runs,
the others once they have ended. The exit code is 1 if any part fails.
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.survival import zygote


def run(parts: Sequence[list[str]]) -> int:
    zygote.prepare()
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / str(number) for number in range(len(parts))]
        running = [
            part(arguments, log if number else None)
            for number, (arguments, log) in enumerate(zip(parts, logs, strict=True))
        ]
        codes = []
        for number, (pid, log) in enumerate(zip(running, logs, strict=True)):
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            if number:
                print(log.read_text(errors="replace"), flush=True)
    return int(any(codes))


def part(arguments: list[str], log: Path | None) -> int:
    """Begins pytest in a process of its own, and returns its number."""
    descriptors = zygote.fork()
    if pid := os.fork():
        for descriptor in descriptors:
            os.close(descriptor)  # else it would not see that the part has ended
        return pid
    os.environ[zygote.FORKED] = ",".join(map(str, descriptors))
    if log is not None:
        to = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(to, 1)
        os.dup2(to, 2)
    code = 1
    try:
        code = int(pytest.main(arguments))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def split(arguments: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for argument in arguments:
        if argument == "--":
            parts.append([])
        else:
            parts[-1].append(argument)
    return parts


if __name__ == "__main__":
    sys.exit(run(split(sys.argv[1:])))
