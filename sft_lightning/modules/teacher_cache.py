"""Keeps the teacher's outputs by sample, so that samples with the same view in each epoch are passed through it once.

An output computed with other samples beside it may differ in its last bits: libraries choose another order of sums for another
number of rows, or at the end of a block. So rows are kept, and used again, in batches of one size alone. Before the first use
it is shown on the network itself that a row's output has the same bits in other places and beside other rows; else the cache
turns itself off and says so. Then training has the bits that it has without a cache.
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

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.networks.tensors import weights_hash

FIELDS = ("logits", "features", "source_logits", "below_new")
MARKS = "marks"
LARGEST = 2 << 30
"""Bytes of outputs that are kept in memory"""
MOST_ON_DISK = 4 << 30
"""Bytes of files; those used longest ago go first"""
CLOSE = 1e-3
"""Largest difference of a sample's two marks, over their usual size"""


def folder() -> Path:
    """Where files of outputs lie: SFT_CACHE_DIR, else ~/.cache/sft_lightning."""
    return Path(os.environ.get("SFT_CACHE_DIR") or "~/.cache/sft_lightning").expanduser() / "teacher"


class TeacherCache:
    """The teacher's outputs on training samples, by row number.

    Args:
        samples: Largest number of samples.
        key: All that the outputs depend on but the size of batches, to share them with other runs on disk; None for memory
            alone.
    """

    def __init__(self, samples: int, key: str | None = None) -> None:
        self.samples, self.key = samples, key
        self.why_off = ""
        """Why it is off; empty while it is on"""
        self.used = 0
        """Batches for which the teacher was not called"""
        self._size = 0  # rows of a batch
        self._slots: dict[int, int] = {}  # row number: place in the tensors
        self._held: dict[str, Tensor] = {}
        self._spread: float | None = None  # the marks' standard deviation
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
            return compute(batch)
        places = [self._slots.get(row, -1) for row in rows]
        if -1 in places:
            output = compute(batch)
            self._keep(output, rows, places, marks_of(batch["x"]))
            return output
        self._check_view(batch["x"], places)
        at = torch.tensor(places, device=self._held[MARKS].device)
        output = made({name: held[at] for name, held in self._held.items() if name != MARKS})
        if not self._shown:
            self._shown, self.why_off = True, self._differs(batch, output, compute)
            if self.why_off:
                warnings.warn(f"teacher_cache is off: {self.why_off}")
                self._held.clear()
                return compute(batch)
        self.used += 1
        return output

    def _check_view(self, x: Mapping[str, Tensor], places: list[int]) -> None:
        """Compares one sample of the batch with what it was, in each batch another one; on a GPU, which has to be waited for,
        in each 32nd batch.
        """
        if self.used % 32 and self._held[MARKS].device.type != "cpu":
            return
        if self._spread is None:
            self._spread = float(self._held[MARKS][: len(self._slots)].std())
        row = self.used % len(places)
        mark = marks_of({name: tensor[row : row + 1] for name, tensor in x.items()})
        if abs(float(self._held[MARKS][places[row]] - mark)) > CLOSE * self._spread:
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

    def _keep(self, output: Output, rows: list[int], places: list[int], marks: Tensor) -> None:
        """Copies the rows that are not kept yet."""
        parts = tensors_of(output) | {MARKS: marks}
        if not self._held:
            if any(len(part) != len(rows) for part in parts.values()) or output.reader is not None:
                raise UserError("model.teacher_cache", "is for tasks with one output for each sample", "set it to none")
            size = sum(part[0].numel() * part.element_size() for part in parts.values()) * self.samples
            if size > LARGEST:
                raise UserError(
                    "model.teacher_cache",
                    f"the outputs take {size / 2**30:.1f} GiB, and at most {LARGEST >> 30} GiB are kept",
                    "set it to none, or train on fewer samples",
                )
        new = [i for i, place in enumerate(places) if place < 0 and rows[i] not in rows[:i]]
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

    def _differs(self, batch: Batch, kept: Output, compute: Callable[[Batch], Output]) -> str:
        """How computed outputs differ from kept ones; empty if they have the same bits in each place that is tried.

        Tried are this batch as it is, and batches of one of its samples in all places.
        """
        if not same(kept, compute(batch)):
            return "a sample's output has other bits beside other samples"
        for row in sorted({0, self._size // 2, self._size - 1}):
            everywhere = {n: torch.empty_like(v).copy_(v[row : row + 1].expand_as(v)) for n, v in batch["x"].items()}
            alone = {n: part[row : row + 1].expand_as(part) for n, part in tensors_of(kept).items()}
            if not same(made(alone), compute({**batch, "x": everywhere})):
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


_numbers: dict[tuple[int, torch.device], Tensor] = {}


def numbers(count: int, device: torch.device) -> Tensor:
    """`[count]` random numbers, always the same."""
    if (count, device) not in _numbers:
        drawn = torch.randn(count, generator=torch.Generator().manual_seed(count))
        _numbers[count, device] = drawn.to(device)
    return _numbers[count, device]


def tensors_of(output: Output) -> dict[str, Tensor]:
    """An output's tensors by name, without those that are None."""
    return {name: part for name in FIELDS if (part := getattr(output, name)) is not None}


def made(tensors: Mapping[str, Tensor]) -> Output:
    """The output with these tensors."""
    return Output(tensors["logits"], tensors["features"], tensors.get("source_logits"), tensors.get("below_new"))


def same(one: Output, other: Output) -> bool:
    """Whether two outputs have the same bits."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in FIELDS)
    return all(a is b or (a is not None and b is not None and bits(a) == bits(b)) for a, b in pairs)


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
