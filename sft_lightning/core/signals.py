"""Handles SIGTERM, SIGUSR1 and Ctrl-C, from the first line of a command to its last.

During a training step a signal is only noted: the run stops at the step's end with everything saved, and a second Ctrl-C
stops it at once. At any other time the command stops immediately. This module imports nothing heavy, because the handlers
are installed before the imports that take seconds. SIGUSR1 means that the cluster is about to take the node away (see
cluster/requeue.py).
"""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PREEMPT: int = getattr(signal, "SIGUSR1", signal.SIGTERM)  # Windows has neither that signal nor Slurm
HANDLED = (signal.SIGTERM, signal.SIGINT, PREEMPT)


class Interrupted(BaseException):
    """The run was asked to stop; `signum` says by which signal."""

    def __init__(self, signum: int, rank: int = 0) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum, self.rank = signum, rank

    @property
    def exit_code(self) -> int:
        """143 after SIGTERM, 130 after Ctrl-C, 138 after SIGUSR1.

        0 for ranks after the first: if one ended with an error, launchers would kill rank zero, which may still be closing
        the run.
        """
        return 128 + self.signum if self.rank == 0 else 0


class Signals:
    """The signal that this process received, and whether it waits for the end of a step."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.waits = False
        self.since = 0.0  # when the command began, seconds since 1970
        self.reacted = float("-inf")  # when a handler last ran, by time.monotonic()
        self._before: dict[int, Any] = {}

    @property
    def installed(self) -> bool:
        """Whether signals are handled here."""
        return bool(self._before)

    def begin(self) -> None:
        """Begins a command: forgets earlier signals."""
        self.asked, self.waits, self.since = None, False, time.time()

    def install(self) -> None:
        """Begins to handle signals; `restore` ends it."""
        self.begin()
        for signum in HANDLED:
            try:
                self._before[signum] = signal.signal(signum, self._handle)
            except ValueError:  # not the main thread: its owner handles signals
                return

    def restore(self) -> None:
        """Puts back the handlers that were there before."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    @contextmanager
    def given_to(
        self, handler: Callable[[int, FrameType | None], Any], signums: Iterable[int] = HANDLED
    ) -> Iterator[None]:
        """Context in which another handler receives signals and reacts in its own time: nothing ends the process meanwhile."""

        def run(signum: int, frame: FrameType | None) -> None:
            self.reacted = time.monotonic()
            handler(signum, frame)

        waited, self.waits = self.waits, True
        before = {signum: signal.signal(signum, run) for signum in signums}
        try:
            yield
        finally:
            for signum, held in before.items():
                signal.signal(signum, held)
            self.waits = waited

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.reacted = time.monotonic()
        again = self.asked is not None
        self.asked = self.asked or signum
        if not self.waits or (again and signum == signal.SIGINT):
            self.waits = True  # further signals must not interrupt the shutdown
            raise Interrupted(signum)


SIGNALS = Signals()


def ignore_in_worker(_: int = 0) -> None:
    """Ignores signals in data workers: Slurm and terminals signal every process, and the current step still needs them."""
    for signum in HANDLED:
        signal.signal(signum, signal.SIG_IGN)
