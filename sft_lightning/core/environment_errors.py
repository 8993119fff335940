"""What the machine ran out of, or lost, told from the error it shows in: one line with the remedy."""

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
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOENT)
TRAINING = {"training_step", "backward", "optimizer_step", "optimizer_closure"}


def machine_fault(error: BaseException) -> UserError | None:
    """What to say of an error that is neither the user's mistake nor ours; None for any other."""
    text = f"{error} {error.__cause__ or ''}"  # the loader says that a process is gone, its cause says of what
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
        by = SIGNAL.search(text)
        return _worker(by[1] if by else None, CODE.search(text))
    if re.search(r"Caught \S*MemoryError in DataLoader worker", text):
        return UserError(
            "machine", "a process that loads data ran out of memory", "lower data.num_workers, or set it 0"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and MEMORY.search(text)):
        return _memory(text, {code.co_name for code in places})
    return None


def unwritable(error: BaseException, run: Path, last: Path) -> UserError | None:
    """What stood in the way of writing a run's files: no space, no right, no folder any more; else None.

    Args:
        error: What was raised.
        run: The run directory.
        last: Its last.ckpt.
    """
    if not isinstance(error, OSError):
        return None
    where = Path(error.filename) if isinstance(error.filename, str) else run
    no_space = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not no_space and (error.errno not in UNWRITABLE or not where.is_relative_to(run)):
        return None
    remedy = "make room" if no_space else "see to the folder"
    kept = f"the last good checkpoint is kept: {remedy}, then fit --resume {run}" if os.path.isfile(last) else ""
    return UserError("runs_dir", f"{where} cannot be written: {error.strerror}", kept)


def _worker(by: str | None, code: re.Match[str] | None) -> UserError:
    if by in ("Segmentation fault", "Aborted", "Illegal instruction", "Floating point exception"):
        how, do = f"crashed ({by})", "set data.num_workers 0 to see on what"
    elif by is None and code is not None:
        how, do = f"ended by itself (exit code {code[1]})", "set data.num_workers 0 to see why"
    else:
        how = f"was killed ({by})" if by else "died"
        do = "most likely the machine ran out of memory: lower data.num_workers, or set it 0"
    return UserError("machine", f"a process that loads data {how}", do)


def _memory(text: str, places: set[str]) -> UserError:
    where = "the GPU" if re.search("CUDA|CUBLAS|HIP|GPU", text) else "the device" if "MPS" in text else "the machine"
    tried = TRIED.search(text)
    amount = ""
    if tried is not None:
        number, unit = (f"{float(tried[1]) / 2**30:,.1f}", "GiB") if tried[2] == "bytes" else tried.groups()
        amount = f" (asked for {number} {unit} more)"
    if places & MEASURING:
        when, do = " while measuring", "lower data.eval_batch_size, and retention's, which changes no value"
    elif places & TRAINING:
        when, do = " in training", "raise trainer.accumulate_grad_batches, which keeps data.batch_size and the result"
    else:
        when, do = "", "take a smaller network"
    less = (
        "shorter texts (data.max_length), smaller images (data.image_size) and trainer.precision bf16-mixed need less"
    )
    return UserError("machine", f"{where} is out of memory{when}{amount}", f"{do}; {less}, too")


def end_processes(but: Collection[BaseProcess]) -> None:
    """Ends the processes that a failed run left, which load data: one may wait for ever on what a killed one held."""
    left = [process for process in active_children() if process not in but]
    if not left:
        return
    try:
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise at their end
    except ValueError:  # not the main thread, which torch leaves alone too
        before = None
    for process in left:
        process.kill()  # SIGTERM they ignore
        process.join()
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
