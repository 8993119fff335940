"""Keeps the teacher's outputs by sample, so that samples with the same view in each epoch are passed through it once.

An output computed with other samples beside it may differ in its last bits: libraries choose another order of sums for another
number of rows, or at the end of a block. So rows are kept, and used again, in batches of one size alone. Before the first use
it is shown on the network itself that a row's output has the same bits in other places and beside other rows; else the cache
turns itself off and says so. Then training has the bits that it has without a cache.

Outputs kept in a form that is not exact are read in this form also the first time, and while the cache is off. So what a
step computes does not depend on what was kept before.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from pickle import UnpicklingError
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor

from sft_lightning.core.cache_folder import cache_folder
from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.modules.kept_form import Form
from sft_lightning.networks.tensors import weights_hash

MARKS = "marks"
LARGEST = 2 << 30
"""Bytes of outputs that are kept in memory"""
MOST_ON_DISK = 4 << 30
"""Bytes of files; those used longest ago go first"""
CLOSE = 1e-3
"""Largest difference of a sample's two marks, over their usual size"""


def folder() -> Path:
    """Where files of outputs lie."""
    return cache_folder("teacher")


class TeacherCache:
    """The teacher's outputs on training samples, by row number.

    Args:
        samples: Largest number of samples.
        key: All that the outputs depend on but the size of batches, to share them with other runs on disk; None for memory
            alone.
        form: What is kept of an output.
    """

    def __init__(self, samples: int, key: str | None = None, form: Form | None = None) -> None:
        self.samples, self.key, self.form = samples, key, form or Form()
        self.why_off = ""
        """Why it is off; empty while it is on"""
        self.used = 0
        """Batches for which the teacher was not called"""
        self._size = 0  # rows of a batch
        self._slots: dict[int, int] = {}  # row number: place in the tensors
        self._held: dict[str, Tensor] = {}
        self._reads: list[str] = []  # names of the tensors that are read
        self._nearest = -1.0  # largest difference of two marks of one view; negative before it is known
        self._views = 0  # samples compared so far
        self._shown = False
        self._new = False

    @property
    def tensors(self) -> list[Tensor]:
        """The kept outputs."""
        return list(self._held.values())

    def output(self, batch: Batch, compute: Callable[[Batch], Output]) -> Output:
        """The teacher's output on a batch, computed or as it was.

        Raises:
            UserError: The outputs take too much memory, are not one row for each sample, or a sample's view has changed.
        """
        rows: list[int] = list(batch["rows"])
        self._size = self._size or self._begin(len(rows), batch)
        if self.why_off or len(rows) != self._size:
            return self._made(batch, compute)
        places = list(map(self._slots.get, rows))
        if None in places:
            found = compute(batch)
            parts = self.form.kept(found)
            self._keep(parts, rows, marks_of(batch["x"]), found.reader is not None)
            return self.form.made(parts)
        self._reads = self._reads or self.form.reads(self._held)
        self._check_view(batch["x"], places)  # type: ignore[arg-type]
        at = torch.tensor(places)
        if self._held[MARKS].device.type != "cpu":
            at = at.to(self._held[MARKS].device)
        parts = {name: self._held[name].index_select(0, at) for name in self._reads}
        if not self._shown:
            self._shown, self.why_off = True, self._differs(batch, parts, compute)
            if self.why_off:
                warnings.warn(f"teacher_cache is off: {self.why_off}")
                self._held.clear()
                return self._made(batch, compute)
        self.used += 1
        return self.form.made(parts)

    def _made(self, batch: Batch, compute: Callable[[Batch], Output]) -> Output:
        """A computed output, in the form in which others are kept."""
        return self.form.made(self.form.kept(compute(batch)))

    def _check_view(self, x: Mapping[str, Tensor], places: list[int]) -> None:
        """Compares one sample of the batch with what it was, each time another one: in the first 64 batches, and in each eighth
        after that; on a GPU, which has to be waited for, in each 32nd.
        """
        marks = self._held[MARKS]
        if self.used % 32 if marks.device.type != "cpu" else self.used >= 64 and self.used % 8:
            return
        if self._nearest < 0:
            self._nearest = CLOSE * float(marks[: len(self._slots)].std())
        row, self._views = self._views % len(places), self._views + 1
        if abs(marks[places[row]].item() - mark_of({name: tensor[row] for name, tensor in x.items()})) > self._nearest:
            raise UserError(
                "model.teacher_cache",
                "the view of a sample has changed since an earlier epoch, as by augmentation",
                "set it to none, or let views stay the same",
            )

    def _begin(self, size: int, batch: Batch) -> int:
        """Takes outputs that another run left on disk. Returns the size of batches."""
        if self.key is None:
            return size
        with suppress(OSError, RuntimeError, KeyError, ValueError, EOFError, UnpicklingError):
            found = torch.load(self._file(size), weights_only=True)
            if weights_hash({**found["held"], "rows": found["rows"]}) != found["hash"]:
                return size
            device = next(iter(batch["x"].values())).device
            self._slots = {row: place for place, row in enumerate(found["rows"].tolist())}
            self._held = {name: tensor.to(device) for name, tensor in found["held"].items()}
            os.utime(self._file(size))
        return size

    def _file(self, size: int) -> Path:
        return folder() / f"{blake2b(f'{self.key} {size}'.encode(), digest_size=16).hexdigest()}.pt"

    def _keep(self, outputs: dict[str, Tensor], rows: list[int], marks: Tensor, read: bool) -> None:
        """Copies the rows that are not kept yet. `read` says that outputs need a reader to make sense."""
        parts = outputs | {MARKS: marks}
        if not self._held:
            if any(len(part) != len(rows) for part in parts.values()) or read:
                raise UserError("model.teacher_cache", "is for tasks with one output for each sample", "set it to none")
            size = sum(part[0].numel() * part.element_size() for part in parts.values()) * self.samples
            if size > LARGEST:
                raise UserError(
                    "model.teacher_cache",
                    f"the outputs take {size / 2**30:.1f} GiB, and at most {LARGEST >> 30} GiB are kept",
                    "set it to none, or train on fewer samples",
                )
        new = [i for i, row in enumerate(rows) if row not in self._slots and row not in rows[:i]]
        first, self._new = len(self._slots), True
        for name, part in parts.items():
            held = self._held.get(name)
            if held is None or len(held) < first + len(new):  # a file may hold fewer rows than this run has
                grown = part.new_empty((max(self.samples, first + len(new)), *part.shape[1:]))
                if held is not None:
                    grown[: len(held)] = held
                self._held[name] = held = grown
            held[first : first + len(new)] = part.detach()[new]
        self._slots |= {rows[i]: first + at for at, i in enumerate(new)}

    def _differs(self, batch: Batch, kept: dict[str, Tensor], compute: Callable[[Batch], Output]) -> str:
        """How computed outputs differ from kept ones; empty if they have the same bits in each place that is tried.

        Tried are this batch as it is, and batches of one of its samples in all places.
        """
        if not same(kept, self.form.kept(compute(batch))):
            return "a sample's output has other bits beside other samples"
        for row in sorted({0, self._size // 2, self._size - 1}):
            everywhere = {n: torch.empty_like(v).copy_(v[row : row + 1].expand_as(v)) for n, v in batch["x"].items()}
            alone = {n: part[row : row + 1].expand_as(part) for n, part in kept.items()}
            if not same(alone, self.form.kept(compute({**batch, "x": everywhere}))):
                return "a sample's output has other bits in another place of a batch"
        return ""

    def save(self) -> None:
        """Leaves the outputs to other runs, if this one has new ones. What cannot be written is not."""
        if self.key is None or self.why_off or not self._new:
            return
        count, file = len(self._slots), self._file(self._size)
        with suppress(OSError, RuntimeError):
            file.parent.mkdir(parents=True, exist_ok=True)
            make_room(file.parent)
            rows = torch.tensor(list(self._slots), dtype=torch.int64)
            kept = {name: held[:count].cpu().clone() for name, held in self._held.items()}
            content = {"rows": rows, "held": kept, "hash": weights_hash({**kept, "rows": rows})}
            with NamedTemporaryFile(dir=file.parent, prefix=".", delete=False) as written:
                torch.save(content, written)
            os.replace(written.name, file)
            self._new = False


def marks_of(x: Mapping[str, Tensor]) -> Tensor:
    """`[B]`: the products of each sample's inputs with random numbers, in single precision. Another view has another one."""
    total: Tensor | None = None
    for tensor in x.values():
        flat = tensor.reshape(len(tensor), -1).float()
        with torch.autocast(flat.device.type, enabled=False):
            mark = flat @ numbers(flat.shape[1], flat.device)
        total = mark if total is None else total + mark
    assert total is not None
    return total


def mark_of(x: Mapping[str, Tensor]) -> float:
    """The mark of one sample's inputs, without the first dimension, up to rounding."""
    total = 0.0
    for tensor in x.values():
        flat = tensor.reshape(-1).float()
        if torch.is_autocast_enabled(flat.device.type):
            with torch.autocast(flat.device.type, enabled=False):
                total += torch.dot(flat, numbers(len(flat), flat.device)).item()
        else:
            total += torch.dot(flat, numbers(len(flat), flat.device)).item()
    return total


_numbers: dict[tuple[int, torch.device], Tensor] = {}


def numbers(count: int, device: torch.device) -> Tensor:
    """`[count]` random numbers, always the same."""
    if (count, device) not in _numbers:
        drawn = torch.randn(count, generator=torch.Generator().manual_seed(count))
        _numbers[count, device] = drawn.to(device)
    return _numbers[count, device]


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether the tensors of `one` have the same bits in `other`."""
    return all(name in other and bits(tensor) == bits(other[name]) for name, tensor in one.items())


def bits(tensor: Tensor) -> bytes:
    """A tensor's bytes."""
    whole = tensor.detach().contiguous().cpu()
    return whole.reshape(-1).view(torch.uint8).numpy().tobytes() if whole.numel() else b""


def make_room(place: Path) -> None:
    """Removes the files used longest ago until the rest takes half of what is allowed."""
    files: list[Any] = sorted((f.stat().st_mtime, f.stat().st_size, f) for f in place.glob("*.pt"))
    taken = sum(size for _, size, _ in files)
    if taken <= MOST_ON_DISK:
        return
    for _, size, file in files:
        if taken <= MOST_ON_DISK // 2:
            break
        file.unlink(missing_ok=True)
        taken -= size
