"""Runs a study's points in this process, one after another, as the `fit` and `test` commands would."""

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

from sft_lightning.ablation.study_dir import KILLED, STOPPED, StudyDir
from sft_lightning.cluster.requeue import WITHIN
from sft_lightning.core import cache
from sft_lightning.core.signals import PREEMPT, SIGNALS

Main = Callable[[list[str]], int]
SAID = re.compile(r"^sft-lightning: error: (.*)$", re.MULTILINE)


def run_job(folder: StudyDir, job: str, point: str, main: Main, commands: bool = False) -> dict[str, Any]:
    """Runs a job of a point, and writes and returns a note on how it ended.

    A fit resumes from its last checkpoint. All output goes to the point's log.

    Args:
        folder: The study's folder.
        job: 'fit', 'test', or 'time' for a short fit that is timed. The fit of a point on a run's path is `path`.
        point: The point's id.
        main: The command line: takes arguments, returns the exit code.
        commands: Run the job as a command in a process of its own, which runs with several processes need.
    """
    if job == "time":
        rmtree(folder.timing / "timing" / point, ignore_errors=True)  # left by an interrupted start
        where = ["--runs_dir", str(folder.timing), "--experiment", "timing", "--run_id", point]
        arguments = ["fit", "--config", str(folder.config(point)), *where]
    elif job == "fit" and folder.path_plan(point).is_file():
        rmtree(folder.run(point).path, ignore_errors=True)  # left by an interrupted start, or without weights
        options = json.loads(folder.path_plan(point).read_text())
        arguments = ["path", *options, "--write", folder.path.name, "--run_id", point]
    elif job == "fit":
        where = ["--runs_dir", str(folder.path.parent), "--experiment", folder.path.name, "--run_id", point]
        arguments = ["fit", "--config", str(folder.config(point)), *where, "--ckpt_path", "last"]
    else:
        arguments = ["test", "--run", str(folder.run(point).path)]
    cache.next_run()
    began, since = time.perf_counter(), size(folder.log(point))
    try:
        with said_to(folder.log(point)):
            code = as_command(arguments) if commands else as_function(main, arguments)
    except Exception as error:  # a bug in this point must not stop the others
        code, reason = 1, f"{type(error).__name__}: {error}"
    else:
        reason = why(folder.log(point), since, code) if code else ""
    held = folder.read_note(point).get(job, {})
    spent = time.perf_counter() - began + (held.get("seconds", 0.0) if held.get("exit") in STOPPED else 0.0)
    return folder.add_note(point, job, exit=code, reason=reason, seconds=round(spent, 3))


def as_function(main: Main, arguments: list[str]) -> int:
    """Runs a command in this process; returns its exit code."""
    try:
        return main(arguments)
    finally:
        gc.collect()  # trainer, module and data hold each other, and the next point needs their memory


def as_command(arguments: list[str]) -> int:
    """Runs a command in its own process; returns its exit code. It passes signals on. The command does not requeue the job."""
    came: list[int] = []
    with SIGNALS.given_to(lambda signum, _: came.append(signum)):
        command = [sys.executable, "-m", "sft_lightning", *arguments]
        child = subprocess.Popen(command, env={**os.environ, WITHIN: "1"})
        while (code := waited(child)) is None:
            for signum in came:
                # A terminal sends SIGINT to both processes, and a second one would end the command at once.
                if signum != signal.SIGINT:
                    child.send_signal(signum)
            came.clear()
    return code if code >= 0 else 128 - code


def waited(child: subprocess.Popen[bytes]) -> int | None:
    """A process's exit code; None if it does not end within half a second."""
    try:
        return child.wait(0.5)
    except subprocess.TimeoutExpired:
        return None


def of_several(trainer: dict[str, Any]) -> bool:
    """Whether a point runs as several processes. The Trainer starts them by the command line, so it must be the point's."""
    return str(trainer["devices"]) not in ("auto", "1", "[0]", "-1") or trainer["num_nodes"] > 1


def size(path: Path) -> int:
    """Size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.is_file() else 0


def by_signal(number: int) -> str:
    """The reason of a process that a signal killed, in words."""
    name = signal.Signals(number).name
    hint = ": the machine ran out of memory, or someone ended it" if name == "SIGKILL" else ""
    return f"its process was killed by {name}{hint}"


def why(log: Path, since: int, code: int) -> str:
    """The reason why a point ended early, by its exit code or from its output after byte `since` of the log."""
    if code in STOPPED:
        return f"it was asked to stop by {signal.Signals(code - 128).name}"
    if code in KILLED:
        return by_signal(code - 128)
    with log.open("rb") as file:
        file.seek(since)
        text = file.read().decode(errors="replace")
    said = SAID.findall(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return str(said[-1]) if said else lines[-1][:500] if lines else "it printed nothing"


class said_to:
    """Context in which output of this process and its children is appended to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        self.streams = sys.stdout, sys.stderr
        for stream in self.streams:
            stream.flush()
        self.kept = os.dup(1), os.dup(2)
        with self.path.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)

    def __exit__(self, *_: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.close()
        sys.stdout, sys.stderr = self.streams
        for kept, number in zip(self.kept, (1, 2), strict=True):
            os.dup2(kept, number)
            os.close(kept)


def serve(
    connection: Any, alive: Any, folder: StudyDir, threads: int, gpu: str | None, main: Main, commands: bool
) -> None:
    """Runs a worker process: receives (job, point) on `connection` and sends (job, point, note), until it receives None.

    The process ends with its parent, however the parent ends.
    """
    SIGNALS.restore()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # between two points nothing needs saving
    for signum in (signal.SIGINT, PREEMPT):  # the parent receives them, too, and stops its workers
        signal.signal(signum, signal.SIG_IGN)
    end_with_parent(alive)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    cache.begin()
    first = True
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        if task is None:
            return
        job, point = task
        connection.send((job, point, run_job(folder, job, point, main, commands)))
        if first:  # imported modules stay, so later collections can skip them
            gc.freeze()
            first = False


def end_with_parent(alive: Any) -> None:
    """Ends this process at once when the parent's end of the pipe `alive` is closed."""
    from threading import Thread

    def watch() -> None:
        try:
            alive.recv()
        except (EOFError, OSError):
            if os.getpgrp() == os.getpid():  # with all its child processes
                os.killpg(0, signal.SIGKILL)
            os._exit(1)

    Thread(target=watch, daemon=True, name="end-with-parent").start()
