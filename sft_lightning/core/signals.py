"""SIGTERM, SIGUSR1 and Ctrl-C, from the first line of a command to its last.

While a step is being trained a signal is noted, and the run stops at the step's end with everything saved; a second
Ctrl-C stops at once. At any other time the command stops where it is. Imports nothing heavy: the handlers stand before
the imports that take seconds. SIGUSR1 is a cluster's word that the node is about to be taken away (see cluster/requeue.py).
"""

import signal
import time
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

        0 for ranks after the first: launchers kill rank zero, which may be closing the run yet, where one ends with another.
        """
        return 128 + self.signum if self.rank == 0 else 0


class Signals:
    """What was asked of this process, and whether to wait with it."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.waits = False
        self.since = 0.0  # when the command began, seconds since 1970
        self._before: dict[int, Any] = {}

    @property
    def installed(self) -> bool:
        """Whether signals are handled here."""
        return bool(self._before)

    def begin(self) -> None:
        """A command begins, of which nothing was asked yet."""
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

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        again = self.asked is not None
        self.asked = self.asked or signum
        if not self.waits or (again and signum == signal.SIGINT):
            self.waits = True  # what follows is the way out, and is not interrupted once more
            raise Interrupted(signum)


SIGNALS = Signals()


def ignore_in_worker(_: int = 0) -> None:
    """For processes that load data: Slurm and terminals send signals to all, and the step at hand still needs them."""
    for signum in HANDLED:
        signal.signal(signum, signal.SIG_IGN)
