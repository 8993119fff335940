"""Ends all ranks if one fails, and prints the reason once.

Each rank that fails leaves a note in the run directory, which every node can read. A rank whose collective broke off looks
for another rank's note before it reports the failure as its own. A thread ends a rank that hangs in a collective after
another rank has failed. Lightning's own observer would kill rank zero without a message.
"""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from sft_lightning.core.signals import SIGNALS
from sft_lightning.runs.directory import write_atomic

LAUNCH = "SFT_LAUNCH"
PEERS = re.compile(
    r"\b(closed by peer|gloo|NCCL|TCPStore|ProcessGroup\w*|Broken pipe|Connection reset|Timed out)\b", re.I
)
"""Words in the RuntimeError of a collective if another rank is gone"""


def launch_id() -> str:
    """Returns a name for this launch of all ranks, so that notes of an earlier launch are ignored."""
    if LAUNCH not in os.environ:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "MASTER_PORT")
        told = [os.environ[n] for n in (*names, "TORCHELASTIC_RESTART_COUNT") if n in os.environ]
        os.environ[LAUNCH] = re.sub(r"\W", "-", "-".join(told)) or secrets.token_hex(4)
    return os.environ[LAUNCH]


def broken(error: BaseException) -> bool:
    """Tells whether a collective broke off because another rank is gone."""
    return isinstance(error, RuntimeError) and PEERS.search(str(error)) is not None


class Verdict(NamedTuple):
    """Why a rank ended."""

    code: int
    reason: str
    own: bool
    """The error was this rank's own"""
    says: bool
    """This rank prints the error"""


class Ranks:
    """Lets one rank report its failure and learn of the others' failures.

    Args:
        folder: The run directory.
        rank: Rank of this process.
        children: Processes of other ranks that this one started.
    """

    PATIENCE = 5.0  # seconds for another rank's note to appear after a collective broke off
    GRACE = 15.0  # seconds to end by itself once another rank has failed

    def __init__(self, folder: Path, rank: int, children: Sequence[subprocess.Popen[bytes]] = ()) -> None:
        self.folder, self.rank, self.children = folder, rank, list(children)
        self.launch = launch_id()
        self._parent = os.getppid()
        self._ended = threading.Event()

    def adopt(self, children: Sequence[subprocess.Popen[bytes]]) -> None:
        """Sets the processes that this one started, to notice if one is killed."""
        self.children = list(children)

    # ---- notes ----

    def _note(self, rank: int | str) -> Path:
        return self.folder / f".failed-{self.launch}-{rank}.json"

    def report(self, code: int, reason: str) -> None:
        """Writes this rank's note."""
        try:
            write_atomic(self._note(self.rank), json.dumps({"rank": self.rank, "code": code, "reason": reason}))
        except OSError:
            return

    def others(self) -> list[tuple[int, int, str]]:
        """Returns (rank, exit code, reason) of every other rank that left a note, the lowest first."""
        found = []
        for path in self.folder.glob(self._note("*").name):
            try:
                if path.stat().st_mtime < SIGNALS.since:
                    continue  # left by an earlier launch: all launches of torchrun have the same name
                note = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
            if note["rank"] != self.rank:
                found.append((int(note["rank"]), int(note["code"]), str(note["reason"])))
        return sorted(found)

    def killed(self) -> str | None:
        """Says which process that this one started has died, and how; None if all live."""
        for number, child in enumerate(self.children, start=1):
            code = child.poll()
            if code:
                how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
                return f"rank {number}: process {child.pid} {how}"
        return None

    def clear(self) -> None:
        """Removes the notes of earlier launches."""
        for path in self.folder.glob(".failed-*"):
            with suppress(OSError):
                if path.stat().st_mtime < SIGNALS.since:
                    path.unlink()

    # ---- whose failure it was ----

    def settle(self, error: BaseException, code: int) -> Verdict:
        """Finds out which rank caused the `error` that ended this one, and which rank prints it."""
        reason = f"{type(error).__name__}: {error}" if code == 1 else str(error)
        if not broken(error):
            return Verdict(code, reason, own=True, says=self._first_to_say(code, reason))
        until, resume = time.monotonic() + self.PATIENCE, f"resume by fit --resume {self.folder}"
        while time.monotonic() < until:
            if others := self.others():
                rank, code, reason = others[0]
                return Verdict(code, f"rank {rank}: {reason}", own=False, says=False)
            if dead := self.killed():
                return Verdict(2, f"{dead}, perhaps for lack of memory; {resume}", False, True)
            if self.rank and os.getppid() != self._parent:
                return Verdict(2, f"rank 0: was killed; {resume}", False, self.rank == 1)
            time.sleep(0.1)
        said = str(error).strip().splitlines()[0][:160]
        reason = f"another rank: ended without a message, perhaps for lack of memory ({said}); {resume}"
        return Verdict(2, reason, own=False, says=self._first_to_say(2, reason))

    def _first_to_say(self, code: int, reason: str) -> bool:
        """Writes the note. Tells whether to print the reason: of ranks with the same reason, the lowest does."""
        self.report(code, reason)
        time.sleep(0.5 if self.rank else 0.0)
        return not any(rank < self.rank and why == reason for rank, _, why in self.others())

    # ---- none outlives the others ----

    def watch(self, before_end: Callable[[str, int], None]) -> None:
        """Starts a thread that ends this process if it hangs after another failed.

        The thread first calls `before_end` with the reason and the exit code; it may end the process itself.
        """
        threading.Thread(target=self._watch, args=(before_end,), daemon=True, name="ranks").start()

    def _watch(self, before_end: Callable[[str, int], None]) -> None:
        while not self._ended.wait(1.0):
            others = self.others()
            why = f"rank {others[0][0]}: {others[0][2]}" if others else self.killed()
            if why is None and self.rank and os.getppid() != self._parent:
                why = "rank 0: has ended"
            if why is None:
                continue
            if self._ended.wait(self.GRACE):
                return
            if not others and not self.rank:
                print(f"sft-lightning: error: {why}", file=sys.stderr, flush=True)
            code = others[0][1] if others else 2
            try:
                before_end(why, code)
            finally:
                os._exit(code)

    def end(self) -> None:
        """Stops the watch: this rank ends by itself."""
        self._ended.set()
