"""Encoded sounds, to classify or to write down."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from sft_lightning.core.errors import UserError
from sft_lightning.data.audio.base import LONGEST
from sft_lightning.data.audio.sounds import Sounds
from sft_lightning.data.audio.transcribed import SpeechTask, Transcribed
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.sampler import Key
from sft_lightning.data.split import Split
from sft_lightning.networks.base import Network
from sft_lightning.serve.items import Found, Item, Prepared, Reader

MOST_SECONDS = 480.0
"""Seconds of a batch, padding included"""
ROOT = Path()


class Held:
    """A sound in memory, which is opened like a file.

    Args:
        data: Its bytes.
    """

    name = ""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def open(self, mode: str) -> BytesIO:
        return BytesIO(self.data)

    def stat(self) -> SimpleNamespace:
        """Its size, in the place of a file's."""
        return SimpleNamespace(st_size=len(self.data))


class InMemory(Sounds):
    """Sounds that are decoded once."""

    decoded: dict[int, np.ndarray]

    def sound(self, row: int) -> np.ndarray:
        if row not in self.decoded:
            self.decoded[row] = super().sound(row)
        return self.decoded[row]


class RequestSounds(InMemory):
    """Sounds to classify."""


class RequestSpeech(InMemory, Transcribed):
    """Sounds to write down."""


class SoundReader(Reader):
    """Encoded sounds of any rate and number of channels, to classify."""

    kind, takes = "audio", "sounds"
    task: SpeechTask | None = None

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        self.spec = network.input_spec
        self.seconds = float(arguments.get("max_seconds") or self.spec.max_seconds or LONGEST)

    def check(self, item: Item) -> None:
        if not item.sound:
            raise UserError("data", f"{item.name} is empty")

    def samples(self, items: Sequence[Item]) -> InMemory:
        """The sounds, not yet decoded."""
        held: Any = [Held(item.sound or b"") for item in items]
        made = RequestSounds(held, None, ROOT) if self.task is None else RequestSpeech(held, None, ROOT, self.task)
        made.decoded = {}
        made.fit(self.spec, self.seconds)
        if isinstance(made, RequestSpeech):
            made.write(self.spec, drop=True)
        return made

    def batches(self, items: Sequence[Item]) -> Found:
        samples, lengths = self.samples(items), dict[int, int]()
        for number, item in enumerate(items):
            try:
                lengths[number] = len(samples.sound(number))
            except BadSample as error:
                yield number, UserError("data", f"{item.name} cannot be read: {next(iter(error.rows.values()))}")
        most, part = MOST_SECONDS * self.share * samples.rate, list[int]()
        for number in sorted(lengths, key=lengths.__getitem__):
            if part and (len(part) + 1) * lengths[number] > most:
                yield self.prepared(samples, part)
                part = []
            part.append(number)
        if part:
            yield self.prepared(samples, part)

    def prepared(self, samples: InMemory, rows: list[int]) -> Prepared:
        """One batch."""
        keys = [Key(row, 0, generated=self.task == "seq2seq") for row in rows]
        batch = Split(samples, np.arange(len(samples)), None, False, "request").__getitems__(keys)
        longer = [self.cut(samples, row) for row in rows]
        return Prepared(list(rows), batch, truncated=longer)

    def cut(self, samples: InMemory, row: int) -> bool:
        """Whether the end of a sound was cut off."""
        header = samples.headers()[row]
        return header is not None and header.samples > self.seconds * header.rate

    def example(self) -> Item:
        import soundfile  # type: ignore[import-untyped]

        held, rate = BytesIO(), self.spec.sample_rate or 16_000
        soundfile.write(held, np.zeros(rate // 2, dtype=np.float32), rate, format="WAV")
        return Item("example", sound=held.getvalue())


class SpeechReader(SoundReader):
    """Encoded speech, to write down."""

    kind = "speech"

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(network, arguments, device)
        self.task = "ctc" if network.task.name == "ctc" else "seq2seq"
