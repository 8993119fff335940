"""RunLock, which lets only one process at a time work in a run directory."""

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
    """Locks a run directory from `take` to `release`, or until the process ends.

    It is a POSIX record lock: the system releases it when the process dies, data workers do not inherit it, and it works
    between machines on NFS. On a file system without locks, nothing is locked.

    Args:
        folder: The directory.
        key: The key that names it, for the error: run_id of a run, study of a study.
    """

    def __init__(self, folder: Path, key: str = "run_id") -> None:
        self.path, self.key = folder / ".lock", key
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Takes the lock, or raises UserError that names the process that holds it."""
        if fcntl is None:
            return
        try:
            file = self.path.open("a+")
        except OSError:
            return  # read-only: nothing can be written, so no lock is needed
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            who = self._holder(file.read())
            file.close()
            raise UserError(
                self.key,
                f"{self.path.parent} is in use by {who}",
                f"wait until it ends, stop it, or choose another {self.key}",
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
        """Releases the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None
