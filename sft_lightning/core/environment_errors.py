"""Recognises errors that the machine causes (memory, disk, limits, killed processes) and says what to do about them."""

import errno
import os
import re
import signal
from collections.abc import Collection
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path
from traceback import walk_tb

from sft_lightning.core.errors import UserError

WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? [\d, ]+\)")
SIGNAL = re.compile(r"is killed by signal: ([^.]+)\.")
CODE = re.compile(r"exit code (-?\d+)")
TRIED = re.compile(r"[Tt]ried to allocate ([\d.]+) ?(\w+)")
MEMORY = re.compile(r"out of memory|can't allocate memory|ALLOC_FAILED|Unable to allocate", re.IGNORECASE)
SHARED = re.compile(r"(open|allocate) shared memory|(file|object) </torch_|out of shared memory")
MEASURING = {"_evaluate", "evaluate", "_compare", "predict_step"}
ENDS_S = 2.0  # seconds that dying processes are given to end
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOENT)
TRAINING = {"training_step", "backward", "optimizer_step", "optimizer_closure"}


def machine_fault(error: BaseException) -> UserError | None:
    """Returns the message for an error that the machine caused; None for any other error."""
    text = f"{error} {error.__cause__ or ''}"  # the loader says that a process died, its cause says why
    places = [frame.f_code for frame, _ in walk_tb(error.__traceback__)]
    if getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in text:
        return UserError(
            "machine", "too many open files", "raise the limit (ulimit -n 65536), or lower data.num_workers"
        )
    of_processes = any(Path(code.co_filename).parent.name == "multiprocessing" for code in places)
    full = getattr(error, "errno", None) == errno.ENOSPC and of_processes
    if full or (isinstance(error, (OSError, RuntimeError)) and SHARED.search(text)):
        return UserError(
            "machine",
            "no shared memory left for the processes that load data",
            "give /dev/shm more room (docker run --shm-size 8g), or set data.num_workers 0",
        )
    if isinstance(error, RuntimeError) and WORKER.search(text):
        by, code = SIGNAL.search(text), CODE.search(text)
        return _worker(by[1] if by else None, int(code[1]) if code else None)
    if isinstance(error, (ConnectionError, EOFError, FileNotFoundError)) and of_processes:
        return _cut_off(error)
    if re.search(r"Caught \S*MemoryError in DataLoader worker", text):
        return UserError(
            "machine", "a process that loads data ran out of memory", "lower data.num_workers, or set it 0"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and MEMORY.search(text)):
        return _memory(text, {code.co_name for code in places})
    return None


def unwritable(error: BaseException, run: Path, last: Path) -> UserError | None:
    """Returns the message if a run's files cannot be written (no space, no permission, folder gone); else None.

    Args:
        error: The exception.
        run: The run directory.
        last: Its last.ckpt.
    """
    if not isinstance(error, OSError):
        return None
    where = Path(error.filename) if isinstance(error.filename, str) else run
    no_space = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not no_space and (error.errno not in UNWRITABLE or not where.is_relative_to(run)):
        return None
    fix = "make room on the disk" if no_space else "make the folder writable"
    if os.path.isfile(last):
        fix += f", then resume from the last checkpoint by fit --resume {run}"
    return UserError("runs_dir", f"{where} cannot be written: {error.strerror}", fix)


def _cut_off(error: BaseException) -> UserError | None:
    """Returns the message if a process that loads data died while it passed a tensor on: its socket breaks then, which may
    be seen before torch sees the process's end.
    """
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    loader = next((f.f_locals["self"] for f in frames if f.f_code.co_name == "_try_get_data"), None)
    if loader is None:
        return None
    try:
        for process in loader._workers:
            process.join(ENDS_S / len(loader._workers))
    except RuntimeError as of_torch:  # its handler of SIGCHLD, which sees the end now
        return machine_fault(of_torch)
    code = next((process.exitcode for process in loader._workers if process.exitcode is not None), None)
    if code is not None and code < 0:
        return _worker(signal.strsignal(-code), None)
    return _worker(None, code)


def _worker(by: str | None, code: int | None) -> UserError:
    if by in ("Segmentation fault", "Aborted", "Illegal instruction", "Floating point exception"):
        how, do = f"crashed ({by})", "set data.num_workers 0 to see where"
    elif by is None and code is not None:
        how, do = f"ended by itself (exit code {code})", "set data.num_workers 0 to see why"
    else:
        how = f"was killed ({by})" if by else "died"
        do = "lower data.num_workers, or set it 0: most likely the machine ran out of memory"
    return UserError("machine", f"a process that loads data {how}", do)


def _memory(text: str, places: set[str]) -> UserError:
    where = "the GPU" if re.search("CUDA|CUBLAS|HIP|GPU", text) else "the device" if "MPS" in text else "the machine"
    tried = TRIED.search(text)
    amount = ""
    if tried is not None:
        number, unit = (f"{float(tried[1]) / 2**30:,.1f}", "GiB") if tried[2] == "bytes" else tried.groups()
        amount = f" (asked for {number} {unit} more)"
    if places & MEASURING:
        when, do = " in evaluation", "lower data.eval_batch_size and retention.eval_batch_size, which changes no value"
    elif places & TRAINING:
        when, do = " in training", "raise trainer.accumulate_grad_batches, which keeps data.batch_size and the result"
    else:
        when, do = "", "choose a smaller network"
    less = "shorten texts (data.max_length), shrink images (data.image_size) or set trainer.precision bf16-mixed"
    return UserError("machine", f"{where} is out of memory{when}{amount}", f"{do}, or {less}")


def end_processes(but: Collection[BaseProcess]) -> None:
    """Kills the data workers that a failed run left: one may wait for ever for a lock that a killed one held."""
    left = [process for process in active_children() if process not in but]
    if not left:
        return
    try:
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise when they end
    except ValueError:  # not the main thread: torch has set no handler either
        before = None
    for process in left:
        process.kill()  # they ignore SIGTERM
        process.join()
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
