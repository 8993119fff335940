"""One command in this process, watched: what it returned and printed, what it left on disk, and that it came to an end.

What every fuzzed command is held to stands in `check`.
"""

import json
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from types import FrameType
from typing import Any

import datasets
from huggingface_hub import constants
from lightning.pytorch.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from sft_lightning.cli.main import main
from sft_lightning.config.options import OPTIONS

LIMIT = 20.0  # seconds; a valid command takes less than one
MEMORY = 3 << 30  # bytes a command may ask for besides what the process has: what is refused must be said in one line
ERROR = "sft-lightning: error: "
NAMES = {  # one of these, or a name that the case gives, must stand in the line
    *(name for name, *_ in OPTIONS),
    *("trainer", "data", "network", "model", "retention", "pretrained", "config", "seed_everything"),
    *("key", "ckpt_path", "weights_only", "resume", "run", "import", "optimizer", "lr", "metrics.jsonl", "run.json"),
}
JARGON = re.compile(r"<class '|typing\.|NoneType|object at 0x|<locals>|\bjsonargparse\b|Traceback")


class Hang(BaseException):
    """The command did not come to an end in time."""


class OtherProcesses(BaseException):
    """The command is about to start processes of other ranks, each a copy of this one's command line: none here."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    arguments: list[str]
    code: int | None
    out: str
    err: str
    raised: str
    """An exception's traceback where one left `main`"""
    before: dict[Path, str]
    """Status of the runs that were there before"""
    launches: bool = False
    """Whether it came as far as starting other ranks, and was ended there"""

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith(ERROR)]

    @property
    def line(self) -> str:
        """What was said."""
        return self.errors[0].removeprefix(ERROR) if self.errors else ""


@contextmanager
def streams() -> Iterator[list[str]]:
    """Standard output and error of this process, as written by Python, C, and children."""
    told: list[str] = []
    kept = sys.stdout, sys.stderr
    for stream in kept:
        stream.flush()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        saved = [os.dup(1), os.dup(2)]
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = (
            open(fd, "w", buffering=1, encoding="utf-8", errors=how, closefd=False)  # noqa: SIM115  closed with the file
            for fd, how in ((1, "strict"), (2, "backslashreplace"))
        )
        try:
            yield told
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = kept
            for fd, old in zip((1, 2), saved, strict=True):
                os.dup2(old, fd)
                os.close(old)
            for file in (out, err):
                file.seek(0)
                told.append(file.read().decode("utf-8", "replace"))


@contextmanager
def watched() -> Iterator[None]:
    """Ends what takes too long, asks for too much memory, or would start other ranks."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"after {LIMIT} s")

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OtherProcesses

    hub = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True  # or each name of nothing is asked for five times
    launchers = {c: c.launch for c in (_SubprocessScriptLauncher, _MultiProcessingLauncher)}
    for launcher in launchers:
        launcher.launch = refuse  # type: ignore[method-assign]
    before, limits = signal.signal(signal.SIGALRM, ring), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, LIMIT, 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = hub
        for launcher, launch in launchers.items():
            launcher.launch = launch  # type: ignore[method-assign]


def statuses(runs: Path) -> dict[Path, str]:
    """What the run.json of each run says of its status."""
    found = {}
    for path in runs.rglob("run.json"):
        try:
            found[path] = str(json.loads(path.read_bytes())["status"])
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            found[path] = "unreadable"
    return found


def command(folder: Path, *arguments: object) -> Ended:
    """`main` with these arguments, in `folder`, with runs in `folder/runs`."""
    given, here, environment = [str(a) for a in arguments], Path.cwd(), dict(os.environ)
    before = statuses(folder)
    os.environ["SFT_RUNS_DIR"] = str(folder / "runs")
    for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        os.environ.pop(variable, None)
    os.chdir(folder)
    code, raised, launches = None, "", False
    path = list(sys.path)
    try:
        with streams() as told:
            try:
                with watched():
                    code = main(given)
            except OtherProcesses:
                code, launches = 0, True
            except BaseException:
                raised = traceback.format_exc()
    finally:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
    return Ended(given, code, *told, raised, before, launches)


def complaints(ended: Ended, folder: Path, names: set[str] = frozenset()) -> list[str]:  # type: ignore[assignment]
    """What is wrong with how a command ended; nothing for success, or one line that names the cause."""
    wrong = []
    if ended.raised:
        return [f"an exception left main:\n{ended.raised[-6000:]}"]
    if ended.code not in (0, 2):
        wrong.append(f"exit code {ended.code}:\n{ended.err[-6000:]}")
    if "Traceback" in ended.out + ended.err:
        wrong.append(f"a traceback was printed:\n{(ended.out + ended.err)[-6000:]}")
    if ended.code == 2:
        if len(ended.errors) != 1:
            wrong.append(f"{len(ended.errors)} lines of error:\n{ended.err[-3000:]}")
        said = set(re.findall(r"[A-Za-z_][\w.-]*", ended.line)) | set(re.findall(r"\w+", ended.line))
        if not said & (NAMES | names) and not any(name in ended.line for name in names):
            wrong.append(f"the line names nothing: {ended.line}")
        if JARGON.search(ended.line):
            wrong.append(f"the line is in Python's words: {ended.line}")
        if re.search(r"[\x00-\x08\x0b-\x1f\x7f]", ended.err.replace("\t", "")):
            wrong.append(f"control characters were printed: {ended.err[:600]!r}")
        if len(ended.line) > 900:
            wrong.append(f"a line of {len(ended.line)} characters: {ended.line[:1200]}")
    for path, status in statuses(folder).items():
        if path in ended.before:
            if ended.code and status == "running":
                wrong.append(f"{path} still says running")
            continue
        if ended.code == 0 and not ended.launches and status not in ("finished", "running", "unreadable"):
            wrong.append(f"exit code 0, and {path} says {status}")
        if ended.code and (status != "failed" or not json.loads(path.read_text()).get("steps")):
            wrong.append(f"{path} was left, and says {status}; the error: {ended.line}")
    if ended.code == 2 and not statuses(folder):
        left = [p for p in (folder / "runs").rglob("*") if p.is_file()]
        wrong += [f"left behind: {left}"] if left else []
    temporary = list(folder.rglob("*.tmp"))
    wrong += [f"temporary files were left: {temporary}"] if temporary else []
    if children := active_children():
        wrong.append(f"processes were left: {children}")
        for child in children:
            child.kill()
            child.join()
    return wrong


def check(ended: Ended, folder: Path, names: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Fails where a command neither succeeded nor said in one line what is wrong."""
    if wrong := complaints(ended, folder, names):
        raise AssertionError("\n\n".join([" ".join(ended.arguments), *wrong]))
