"""Runs jobs in worker processes on this machine, each with its share of cores or its GPU."""

import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from sft_lightning.ablation.study_dir import StudyDir
from sft_lightning.ablation.worker import Main, by_signal, serve


@dataclass
class Worker:
    """A worker process and its current job."""

    process: BaseProcess
    connection: Connection
    at: tuple[str, str] | None = None
    """(job, point); None if idle"""


class Pool:
    """Runs jobs, as many at a time as there are workers. A worker that dies is replaced.

    Args:
        folder: The study's folder.
        workers: Number of processes.
        threads: CPU threads of each worker.
        gpus: Values of CUDA_VISIBLE_DEVICES, given to the workers in turn; empty on a machine without GPUs.
        main: The command line, which workers call.
        commands: Whether points run as commands in processes of their own.
    """

    def __init__(
        self, folder: StudyDir, workers: int, threads: int, gpus: list[str], main: Main, commands: bool
    ) -> None:
        self.folder, self.threads, self.gpus, self.main, self.commands = folder, threads, gpus, main, commands
        # A fork shares imported modules. CUDA does not survive a fork, so with GPUs workers are spawned.
        self.context = get_context("spawn" if gpus or sys.platform != "linux" else "fork")
        self.alive, self._ours = Pipe(duplex=False)  # workers end when our end is closed, even by our death
        self.closing = False
        self.workers: list[Worker] = []
        if self.context.get_start_method() == "fork":
            import scipy.stats  # type: ignore[import-untyped]  # noqa: F401  runs and the study's answer need it
        for number in range(workers):
            self.workers.append(self._start(number))

    def _start(self, number: int) -> Worker:
        ours, theirs = Pipe()
        gpu = self.gpus[number % len(self.gpus)] if self.gpus else None
        sys.stdout.flush()
        sys.stderr.flush()
        forks = self.context.get_start_method() == "fork"
        held = [*(w.connection for w in self.workers), ours, self._ours] if forks else []
        process = self.context.Process(  # type: ignore[attr-defined]
            target=_begin,
            args=(theirs, self.alive, held, self.folder, self.threads, gpu, self.main, self.commands),
        )
        process.start()
        theirs.close()
        return Worker(process, ours)

    @property
    def idle(self) -> int:
        return sum(w.at is None for w in self.workers)

    def give(self, job: str, point: str) -> None:
        """Hands a job to an idle worker."""
        number = next(i for i, w in enumerate(self.workers) if w.at is None)
        try:
            self.workers[number].connection.send((job, point))
        except OSError:  # the worker died while idle
            self.workers[number].process.join()
            self.workers[number] = self._start(number)
            self.workers[number].connection.send((job, point))
        self.workers[number].at = (job, point)

    def results(self, timeout: float) -> list[tuple[str, str, dict[str, Any]]]:
        """(job, point, note) of the jobs that ended within `timeout` seconds."""
        ended = []
        ready = wait([w.connection for w in self.workers if not self.closing or w.at], timeout)
        for number, worker in enumerate(self.workers):
            if worker.connection not in ready:
                continue
            try:
                ended.append(worker.connection.recv())
                worker.at = None
            except (EOFError, ConnectionResetError):
                worker.process.join()
                if worker.at is not None:
                    job, point = worker.at
                    ended.append((job, point, self.folder.add_note(point, job, **death(worker.process.exitcode))))
                    worker.at = None
                if not self.closing:
                    worker.connection.close()
                    self.workers[number] = self._start(number)
        return ended

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Sends a signal to busy workers and their child processes, and kills idle ones. No job may be given afterwards."""
        self.closing = True
        for worker in self.workers:
            pid = worker.process.pid
            if worker.process.is_alive() and pid is not None:
                if worker.at is None:
                    worker.process.kill()
                else:
                    os.killpg(pid, signum)

    def close(self) -> None:
        """Ends the workers, which must be idle."""
        for worker in self.workers:
            try:
                worker.connection.send(None)
            except OSError:
                continue
        for worker in self.workers:
            worker.process.join(30)
            if worker.process.is_alive() and worker.process.pid is not None:
                os.killpg(worker.process.pid, signal.SIGKILL)


def _begin(
    connection: Connection,
    alive: Connection,
    held: list[Connection],
    folder: StudyDir,
    threads: int,
    gpu: str | None,
    main: Main,
    commands: bool,
) -> None:
    os.setpgid(0, 0)  # so that a terminal's Ctrl-C reaches only the parent, which passes it on
    for other in held:
        other.close()
    serve(connection, alive, folder, threads, gpu, main, commands)


def death(code: int | None) -> dict[str, Any]:
    """The note on a job whose worker died."""
    if code is not None and code < 0:
        return {"exit": 128 - code, "reason": by_signal(-code)}
    return {"exit": code or 1, "reason": f"its process ended with exit code {code}"}
