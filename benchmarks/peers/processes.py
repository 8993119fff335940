"""A function in fresh forked processes, as torchrun starts them. What fails, dies or hangs is told in one line."""

import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

LIMIT = 30.0
"""Seconds until a run counts as hanging"""
UNTOUCHED = torch.get_rng_state()
"""As any process finds it before something seeds it"""


class Failed(Exception):
    """A process raised, died or did not answer; the message is its last line."""


def run(function: Callable[..., Any], *arguments: Any, processes: int = 1, may_die: bool = False) -> list[Any]:
    """What `function` returns in each process. With `may_die` it may kill itself instead, and gives nothing then."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        context = get_context("fork")
        ranks = [
            context.Process(target=_work, args=(rank, processes, port, folder, function, arguments))
            for rank in range(processes)
        ]
        for rank in ranks:
            rank.start()
        try:
            problem = _wait(ranks)
        finally:
            for rank in ranks:
                _end(rank)
        if may_die and problem is None and all(rank.exitcode == -signal.SIGKILL for rank in ranks):
            return []
        if errors := sorted(Path(folder).glob("*.error"), key=lambda file: file.stat().st_mtime_ns):
            raise Failed(errors[0].read_text())  # the first: the others lost their peer
        if problem is not None:
            raise Failed(problem)
        if any(rank.exitcode for rank in ranks):
            raise Failed(f"exit codes {[rank.exitcode for rank in ranks]}")
        return [torch.load(Path(folder, f"{number}.pt"), weights_only=False) for number in range(processes)]


def _wait(ranks: list[Any]) -> str | None:
    """Until all have ended, one has failed, or time is up."""
    until = time.monotonic() + LIMIT
    while any(rank.is_alive() for rank in ranks):
        if any(rank.exitcode for rank in ranks):
            time.sleep(1.0)  # the others may be about to say why
            return None
        if time.monotonic() > until:
            return f"hangs: no answer in {LIMIT:.0f} s"
        time.sleep(0.01)
    return None


def _end(rank: Any) -> None:
    """Ends the process and the ones it started, which are a group of their own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(rank.pid, signal.SIGKILL)
    rank.join()


def _work(rank: int, processes: int, port: int, folder: str, function: Callable[..., Any], arguments: Any) -> None:
    os.setsid()
    log = os.open(os.path.join(folder, f"{rank}.log"), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    torch.set_rng_state(UNTOUCHED)
    random.seed()
    np.random.seed()
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "LOCAL_WORLD_SIZE": str(processes)}
    code = 0
    try:
        torch.save(function(*arguments), os.path.join(folder, f"{rank}.pt"))
    except BaseException as error:
        traceback.print_exc()
        said = str(error).strip().splitlines() or [""]
        Path(folder, f"{rank}.error").write_text(f"{type(error).__name__}: {said[-1]}"[:300])
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    if os.environ.get("PEERS_LOGS"):  # to look into a failure
        os.replace(os.path.join(folder, f"{rank}.log"), os.path.join(os.environ["PEERS_LOGS"], f"{os.getpid()}.log"))
    os._exit(code)
