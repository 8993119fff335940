"""One process at a time works in a run directory."""

import json
import os
import socket
from pathlib import Path
from typing import IO

from sft_lightning.core.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]


class RunLock:
    """Holds a run directory from `take` to `release`, or to the end of the process, however it comes.

    A POSIX record lock: the system gives it back when the process dies, processes that load data do not inherit it, and
    NFS passes it on between machines. Where the file system has no locks there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Takes the lock, or raises UserError that says who has it."""
        if fcntl is None:
            return
        try:
            file = self.path.open("a+")
        except OSError:
            return  # read-only: nothing can be written that would need a lock
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            who = self._holder(file.read())
            file.close()
            raise UserError(
                "run_id", f"{self.path.parent} is in use by {who}", "wait for it or stop it, or choose another run_id"
            ) from None
        except OSError:
            file.close()
            return
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        self._file = file

    def _holder(self, text: str) -> str:
        try:
            holder = json.loads(text)
            return f"process {holder['pid']} on {holder['host']}"
        except (ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Gives the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None
