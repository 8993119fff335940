"""Measures one turn of a process: wall time, CPU time with that of its children, time on the device, and memory."""

import gc
import time
from contextlib import suppress
from ctypes import CDLL
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.bench.parts import Clock

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def cpu_of_children() -> float:
    """Seconds of CPU time of all living descendants, such as loaders' workers and W&B's service."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = child.cpu_times()
            total += times.user + times.system
    return total


class Turn:
    """The time from `begin` to `end`."""

    clock: Clock | None = None
    """Times the parts of a step, if that is asked"""

    def begin(self, cuda: bool) -> None:
        self.cuda = cuda
        if self.clock is not None:
            self.clock.spent.clear()
        self.children = cpu_of_children()
        if cuda:
            torch.cuda.synchronize()
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.events[0].record()
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def end(self, steps: int) -> dict[str, float]:
        """Milliseconds per step."""
        found: dict[str, float] = {}
        if self.cuda:
            self.events[1].record()
            torch.cuda.synchronize()
            found["device"] = self.events[0].elapsed_time(self.events[1]) / steps
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        children = max(0.0, cpu_of_children() - self.children)
        if self.clock is not None:
            found |= {f"part {name}": 1e3 * seconds / steps for name, seconds in self.clock.spent.items()}
            found["part other processes"] = 1e3 * children / steps
        return {"cpu": 1e3 * (cpu + children) / steps, "wall": 1e3 * wall / steps, **found}


def kibibytes(name: str) -> int:
    """A value of /proc/self/status; 0 where the system has none."""
    if not STATUS.is_file():
        return 0
    return next((int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:")), 0)


class Memory:
    """Peak of the resident set over that at the start, in MiB; on a GPU what torch allocated at most, too."""

    def __init__(self) -> None:
        """Gives freed memory back to the system first, and forgets the peak so far."""
        gc.collect()
        with suppress(OSError, AttributeError):
            CDLL("libc.so.6").malloc_trim(0)
        with suppress(OSError):
            CLEAR.write_text("5")
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.start = kibibytes("VmRSS")

    def found(self, cuda: bool) -> dict[str, Any]:
        peak = kibibytes("VmHWM")
        said: dict[str, Any] = {"peak_over_start": (peak - self.start) / 1024} if peak else {}
        if cuda:
            said["device_peak"] = torch.cuda.max_memory_allocated() / 2**20
        return said
