"""Sounds as samples: read on request, kept in memory, and padded to the longest of a batch."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.data.audio.reading import MACHINE, Header, Unreadable, read_header, read_sound
from sft_lightning.data.bad_samples import BadSample, printable
from sft_lightning.data.sampler import Key
from sft_lightning.data.samples import Samples

KEEP_BYTES = 2 << 30
"""Memory for decoded sounds of one split; without it they are read again in each epoch"""


class Sounds(Samples):
    """Sounds in files, with one target each or none.

    Args:
        paths: One file for each row.
        targets: `[rows]` class numbers; None without labels.
        root: Folder below which the files lie; names of files are relative to it.
        bad: Rows that cannot be used, and why, such as rows of a table without a label.
        groups: `[rows]` group numbers, such as speakers; None for independent rows.
    """

    group_by_length = True

    def __init__(
        self,
        paths: Sequence[Path],
        targets: np.ndarray | None,
        root: Path,
        bad: Mapping[int, str] | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        self.paths, self.targets, self.root = list(paths), targets, root
        self._bad, self._groups = dict(bad or {}), groups
        self._headers: list[Header | None] | None = None
        self._digest: bytes | None = None
        self._contents: np.ndarray | None = None
        self.rate, self.max_seconds = 0, 0.0
        self.spec: InputSpec | None = None
        self._kept: np.ndarray | None = None
        self._ends = self._have = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.paths)

    # ---- headers ----

    def headers(self) -> list[Header | None]:
        """What each file's header says, read once; None for rows that cannot be used."""
        if self._headers is None:
            found: list[Header | None] = []
            for row, path in enumerate(self.paths):
                try:
                    found.append(None if row in self._bad else read_header(path))
                except Unreadable as error:
                    self._bad[row] = str(error)
                    found.append(None)
            self._headers = found
        return self._headers

    def bad_rows(self) -> dict[int, str]:
        """Rows whose file is missing, empty or damaged. Raises BadSample for the first, unless they are skipped."""
        self.headers()
        if self._bad and not self.skips:
            raise BadSample.of(self, self._bad)
        return self._bad

    def lengths(self) -> np.ndarray | None:
        return self.samples() if self.group_by_length else None

    def samples(self) -> np.ndarray:
        """`[rows]` samples of each sound at the network's rate, cut as it will be; 0 for rows that cannot be used."""
        most = round(self.max_seconds * self.rate)
        of = [0 if h is None else max(1, min(most, round(h.samples * self.rate / h.rate))) for h in self.headers()]
        return np.array(of, dtype=np.int64)

    def cut(self) -> np.ndarray:
        """`[rows]` bool: whether a sound is longer than the network takes."""
        return np.array([h is not None and h.samples > self.max_seconds * h.rate for h in self.headers()], dtype=bool)

    # ---- sounds ----

    def fit(self, spec: InputSpec, max_seconds: float) -> None:
        """Sets the network's rate and inputs, and the length at which sounds are cut."""
        assert spec.sample_rate is not None
        if (spec.sample_rate, max_seconds) != (self.rate, self.max_seconds):
            self._kept = None
        self.rate, self.max_seconds, self.spec = spec.sample_rate, max_seconds, spec

    def keep(self) -> None:
        """Makes room for all sounds, if they fit. Called before workers fork, so that they share it."""
        sizes = self.samples() + 1  # resampling may round a sample up
        if self._kept is None and 0 < 4 * int(sizes.sum()) <= KEEP_BYTES:
            self._ends = np.cumsum(sizes)
            self._kept = np.frombuffer(mmap(-1, 4 * int(sizes.sum())), dtype=np.float32)
            self._have = np.frombuffer(mmap(-1, 8 * len(self)), dtype=np.int64)

    def sound(self, row: int) -> np.ndarray:
        """One sound, float32 `[T]`. Raises BadSample if it cannot be read."""
        if self._kept is not None and (size := int(self._have[row])):
            start = self._start(row)
            return self._kept[start : start + size]
        try:
            values = read_sound(self.paths[row], self.rate, self.max_seconds)
        except Unreadable as error:
            raise BadSample.of(self, {row: str(error)}) from None
        if self._kept is not None and len(values) <= int(self._ends[row]) - self._start(row):
            self._kept[self._start(row) : self._start(row) + len(values)] = values
            self._have[row] = len(values)
        return values

    def _start(self, row: int) -> int:
        return int(self._ends[row - 1]) if row else 0

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """The network's own inputs, or `sound[B, T]`, padded with zeros, and `sound_lengths[B]`."""
        bad: dict[int, str] = {}
        sounds: list[np.ndarray] = []
        for row in rows:
            if why := self.unusable(row):
                bad[row] = why
                continue
            try:
                sounds.append(self.sound(row))
            except BadSample as error:
                if not self.skips:
                    raise
                bad |= error.rows
        if bad:
            raise BadSample.of(self, bad)
        if self.spec is not None and self.spec.extract is not None:
            return self.spec.extract(sounds)
        return padded(sounds)

    def unusable(self, row: int) -> str:
        """Why a row that can be read cannot be used; empty if it can."""
        return ""

    # ---- what a run says of them ----

    def raw(self, row: int) -> dict[str, Any]:
        """Empty if the sound is shorter than the network takes, since the data then make it longer."""
        values, extract = self.sound(row), None if self.spec is None else self.spec.extract
        return {} if len(values) < getattr(extract, "least", 0) else {"sound": torch.from_numpy(values.copy())}

    def groups(self) -> np.ndarray | None:
        return self._groups

    def key(self, row: int) -> str:
        """The file's path below the root."""
        path = self.paths[row]
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def name(self, row: int) -> str:
        return printable(str(self.paths[row])) if self.paths[row].name else f"sample {row}"

    def completed(self, row: int, prediction: dict[str, Any], task: TaskInfo | None) -> dict[str, Any]:
        """Adds the file's path below the root."""
        return {"file": printable(self.key(row)), **prediction}

    def digest(self) -> bytes:
        """Hash of every row's path and bytes, computed once. Rows that may be skipped count as 'unreadable'."""
        if self._digest is None:
            digest, contents = sha256(), np.zeros(len(self), dtype=np.uint64)
            for row, path in enumerate(self.paths):
                digest.update(f"{self.key(row)}\0".encode("utf-8", "surrogateescape"))
                try:
                    data = path.read_bytes()
                except OSError as error:
                    if error.errno in MACHINE:
                        raise
                    data = b"unreadable" + str(row).encode()
                digest.update(data)
                contents[row] = int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
            self._digest, self._contents = digest.digest(), contents
        return self._digest

    def contents(self) -> np.ndarray | None:
        self.digest()
        return self._contents


def padded(sounds: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """`sound[B, T]` float32, zeros after each sound, and `sound_lengths[B]` int64, their samples."""
    lengths = [len(sound) for sound in sounds]
    out = np.zeros((len(sounds), max(lengths)), dtype=np.float32)
    for row, sound in zip(out, sounds, strict=True):
        row[: len(sound)] = sound
    return {"sound": torch.from_numpy(out), "sound_lengths": torch.tensor(lengths)}
