"""Reads sound files with soundfile, mixes their channels to one, and brings them to a network's sample rate with soxr."""

import errno
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sft_lightning.data.vision.walk import Wanted

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")
SOUNDS = Wanted("sound", SUFFIXES)
ENDS_EARLY = re.compile(r"^(?:data|SSND) : (\d+) \(should be (\d+)\)", re.MULTILINE)
"""What libsndfile says of bytes that a header promises, and of those in the file"""
UNKNOWN_LENGTH = 0x7FFF0000
"""Bytes of data from which a header means that its writer, such as a pipe, did not know"""
MAY_LACK = 2304
"""Samples by which the length in an MP3's header, which is an estimate, may be too large, and 5 %"""
MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # errors of the machine, not of the file


class Header(NamedTuple):
    """What a file's header says of a sound."""

    rate: int
    """samples per second"""
    channels: int
    samples: int
    """of each channel"""


class Unreadable(ValueError):
    """A sound that cannot be used; the message says why."""


def read_header(path: Path) -> Header:
    """The header of a file. Raises Unreadable for a file that is damaged, empty, absent or of another kind."""
    with opened(path) as sound:
        return Header(int(sound.samplerate), int(sound.channels), int(sound.frames))


def read_sound(path: Path, rate: int, max_seconds: float | None = None) -> np.ndarray:
    """The first `max_seconds` of a sound at `rate`, the mean of its channels: float32 `[T]`, T ≥ 1.

    Raises Unreadable for a sound that is damaged, ends before its header says, holds numbers that are not finite, or has
    no sample.
    """
    with opened(path) as sound:
        own = int(sound.samplerate)
        most = -1 if max_seconds is None else max(1, math.ceil(max_seconds * own))
        try:
            values = sound.read(most, dtype="float32", always_2d=True)
        except RuntimeError as error:  # soundfile's errors are RuntimeErrors
            raise Unreadable(said(error)) from None
        promised = sound.frames if most < 0 else min(most, sound.frames)
        if len(values) < 0.95 * promised - MAY_LACK:
            raise Unreadable(f"it ends after {len(values):,} of {promised:,} samples")
    mono = values.mean(axis=1, dtype=np.float64).astype(np.float32) if values.shape[1] > 1 else values[:, 0]
    if not np.isfinite(mono).all():
        raise Unreadable("it holds values that are not finite numbers")
    if own != rate:
        import soxr  # type: ignore[import-untyped]

        resampled = soxr.resample(mono, own, rate)
        mono = resampled if len(resampled) else mono[:1]  # a part of one sample is one
    if not len(mono):
        raise Unreadable("it holds no sample")
    limit = None if max_seconds is None else max(1, round(max_seconds * rate))
    return np.ascontiguousarray(mono[:limit], dtype=np.float32)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A sound as soundfile opens it, with one sample at least. Raises Unreadable if the file cannot be opened as a sound."""
    import soundfile  # type: ignore[import-untyped]

    try:
        stream = path.open("rb")
    except OSError as error:
        if error.errno in MACHINE:
            raise
        raise Unreadable(error.strerror or str(error)) from None
    with stream:
        try:
            sound = soundfile.SoundFile(stream)
        except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
            raise Unreadable(said(error) if path.stat().st_size else "the file is empty") from None
        with sound:
            if not sound.frames:
                raise Unreadable("it holds no sample")
            if (sizes := ENDS_EARLY.search(sound.extra_info)) is not None:
                promised, there = map(int, sizes.groups())
                if there < promised < UNKNOWN_LENGTH and promised - there > 8:  # more than padding
                    raise Unreadable(f"it ends after {there:,} of {promised:,} bytes")
            yield sound


def said(error: BaseException) -> str:
    """What libsndfile says of a file, without the names of Python objects."""
    text = str(getattr(error, "error_string", "") or error).strip().rstrip(".")
    return f"it is damaged, or not a sound that libsndfile reads ({text[:80]})"
