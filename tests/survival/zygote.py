"""Processes that run the command line, or a function, without paying for imports: forked from one that has them.

Run as `python -m tests.survival.zygote`, it reads requests as JSON lines and answers each with one line. A forked
process is a real one: it can be killed, and it ends with the command's exit code.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]


FORKED = "SFT_TEST_ZYGOTE"
"""Names two descriptors, to write to and read from such a process that is there already: `5,6`"""


class Zygote:
    """The side of the test."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None
        if held := os.environ.pop(FORKED, ""):
            asked, answered = map(int, held.split(","))
            self._asked: IO[str] = os.fdopen(asked, "w")
            self._answered: IO[str] = os.fdopen(answered)
        else:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.survival.zygote"],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert self._server.stdin is not None and self._server.stdout is not None
            self._asked, self._answered = self._server.stdin, self._server.stdout
        self._answer()

    def _answer(self) -> Any:
        line = self._answered.readline()
        assert line, "the process that others are forked from has ended"
        return json.loads(line)

    def _ask(self, **request: Any) -> Any:
        self._asked.write(json.dumps(request) + "\n")
        self._asked.flush()
        return self._answer()

    def spawn(self, arguments: Sequence[object], out: Path, env: Mapping[str, str] | None = None) -> int:
        """Begins `sft-lightning ARGUMENTS`, its output into the file `out`; returns the process's number."""
        return int(self._ask(spawn=[str(a) for a in arguments], out=str(out), env=dict(env or {})))

    def wait(self, pid: int, timeout: float = 120.0) -> int:
        """The exit code, negative for a signal; the process is killed where it takes longer than `timeout` seconds."""
        return int(self._ask(wait=pid, timeout=timeout))

    def call(self, function: str, arguments: Sequence[object], out: Path) -> int:
        """Begins `module:function` with text arguments, its output into the file `out`; returns the process's number."""
        return int(self._ask(spawn=[str(a) for a in arguments], out=str(out), env={}, function=function))

    def run(self, arguments: Sequence[object], out: Path, env: Mapping[str, str] | None = None) -> int:
        return self.wait(self.spawn(arguments, out, env))

    def close(self) -> None:
        self._asked.close()
        if self._server is not None:
            self._server.wait(30)


def child(arguments: list[str], out: str, env: dict[str, str], function: str | None) -> None:
    code = 1
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.environ.update(env)
        if function is None:
            sys.argv = ["sft_lightning", *arguments]
            code = import_module("sft_lightning.cli.main").command()
        else:
            module, _, name = function.partition(":")
            getattr(import_module(module), name)(*arguments)
            code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, timeout: float) -> int:
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1000


def prepare() -> None:
    """Imports what the command line needs."""
    import torch

    import sft_lightning.cli.fit
    import sft_lightning.data.text
    import sft_lightning.data.vision  # noqa: F401

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def serve(requests: Iterable[str], answers: IO[str]) -> None:
    print("{}", file=answers)
    for line in requests:
        request = json.loads(line)
        if "wait" in request:
            print(wait(request["wait"], request["timeout"]), file=answers)
            continue
        pid = os.fork()
        if not pid:
            child(request["spawn"], request["out"], request["env"], request.get("function"))
        print(pid, file=answers)


def fork() -> tuple[int, int]:
    """Forks a process that serves from one that is prepared. Returns the descriptors to write to and to read from."""
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    if not os.fork():
        os.close(ours_out)
        os.close(ours_in)
        with suppress(KeyboardInterrupt):
            serve(os.fdopen(theirs_in), os.fdopen(theirs_out, "w", buffering=1))
        os._exit(0)
    os.close(theirs_in)
    os.close(theirs_out)
    return ours_out, ours_in


if __name__ == "__main__":
    prepare()
    serve(sys.stdin, os.fdopen(os.dup(1), "w", buffering=1))
