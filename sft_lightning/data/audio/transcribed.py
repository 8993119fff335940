"""Sounds with transcripts as samples: target tokens for an encoder-decoder, or targets for frames of a CTC network."""

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, Texts
from sft_lightning.core.wording import plural
from sft_lightning.data.audio.reading import Header
from sft_lightning.data.audio.sounds import Sounds
from sft_lightning.data.sampler import Key

SpeechTask = Literal["seq2seq", "ctc"]
NONE = -1
"""Fills a CTC target after its end"""
SLACK, SHARE = 0.5, 0.9
"""A sound is of its transcript alone if its table states all but so many seconds of it, or this share"""
OF_A_PART = "and it lasts {:.3g} s: cut it into files of one transcript each"


class Transcribed(Sounds):
    """Sounds with one transcript each, or none of them with one.

    Args:
        paths: One file for each row.
        transcripts: One for each row, empty for rows that cannot be used; None without any.
        root: Folder below which the files lie.
        task: Whether targets are tokens of a text, or outputs of frames.
        bad: Rows that cannot be used, and why.
        groups: `[rows]` group numbers, such as speakers.
        stated: Seconds of some rows' sounds, as their table has them.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        transcripts: Sequence[str] | None,
        root: Path,
        task: SpeechTask,
        bad: Mapping[int, str] | None = None,
        groups: np.ndarray | None = None,
        stated: Mapping[int, float] | None = None,
    ) -> None:
        super().__init__(paths, None, root, bad, groups)
        self.stated = dict(stated or {})
        self.transcripts, self.task = None if transcripts is None else list(transcripts), task
        self.one_item_each = task == "ctc"
        self.target_ids: list[list[int]] = []
        self.cut_targets = np.zeros(0, dtype=bool)
        self.left_out: Counter[str] = Counter()
        """Characters that the network cannot write, and in how many transcripts they are"""
        self.too_short: dict[int, str] = {}
        """Rows with fewer frames than their transcript needs, and why"""

    def headers(self) -> list[Header | None]:
        """Sounds much longer than their table says are unusable: their transcripts are of a part."""
        unread, found = self._headers is None, super().headers()
        for row, seconds in self.stated.items() if unread else ():
            header = found[row]
            if header is not None and (own := header.samples / header.rate) > max(seconds + SLACK, seconds / SHARE):
                self._bad[row], found[row] = f"its table has {seconds:g} s of it, {OF_A_PART.format(own)}", None
        return found

    def write(self, spec: InputSpec, drop: bool) -> None:
        """Makes the targets. Raises UserError for characters that the network cannot write, unless they are to be dropped."""
        writer, most = spec.tokenizer, spec.max_length
        texts = self.transcripts or []
        self.left_out = Counter(c for text in texts for c in writer.unknown(text))
        if self.left_out and not drop:
            among = ", ".join(f"{c!r} in {count:,}" for c, count in self.left_out.most_common(5))
            raise UserError(
                "data",
                f"the network {spec.network} cannot write some characters of the {len(texts):,} transcripts: {among}",
                "set data.letter_case, or data.unknown_characters drop",
            )
        kept = ["".join(c for c in text if c not in self.left_out) for text in texts] if self.left_out else texts
        whole = [writer.targets(text, None) for text in kept]
        self.cut_targets = np.array([most is not None and len(ids) > most for ids in whole], dtype=bool)
        self.target_ids = [
            writer.targets(t, most) if cut else w for t, w, cut in zip(kept, whole, self.cut_targets, strict=True)
        ]
        if not texts:
            self.target_ids = [writer.targets("", None)] * len(self)
        self.too_short = self._too_short(spec) if self.task == "ctc" and texts else {}

    def _too_short(self, spec: InputSpec) -> dict[int, str]:
        """CTC needs a frame for each output, and one more between two that are equal."""
        assert spec.frames is not None
        frames = spec.frames(torch.from_numpy(self.samples())).tolist()
        needed = [len(ids) + sum(a == b for a, b in pairwise(ids)) for ids in self.target_ids]
        return {
            row: f"its {plural(has, 'frame')} are too few for a transcript that needs {wants}"
            for row, (has, wants) in enumerate(zip(frames, needed, strict=True))
            if has < wants and row not in self._bad
        }

    def unusable(self, row: int) -> str:
        return super().unusable(row) or self.too_short.get(row, "")

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """The sounds; for tokens `target_ids[B, U]`, `select[B, U]` and `y`; for frames `select[B, T]` and `y[B, U]`."""
        x, spec = super().fetch(rows, keys, train), self.spec
        assert spec is not None
        some = [self.target_ids[row] for row in rows]
        if self.task == "ctc":
            assert spec.frames is not None
            frames = spec.frames(x["sound_lengths"])
            x["select"] = torch.arange(int(frames.max())) < frames[:, None]
            if self.transcripts is not None:
                x["y"] = filled(some, NONE, max(map(len, self.target_ids)))
            return x
        targets = filled(some, 0)
        lengths = torch.tensor([len(ids) for ids in some])
        places = torch.arange(targets.shape[1])
        marked = (places >= spec.tokenizer.first) & (places < lengths[:, None])
        if self.transcripts is None:
            return {**x, "target_ids": targets, "select": torch.zeros_like(marked)}
        return {**x, "target_ids": targets, "select": marked, "y": targets[marked]}

    def prompts(self, rows: Sequence[int]) -> dict[str, Any]:
        """For networks that generate: the sounds, and their transcripts."""
        if self.task == "ctc":
            return {}
        texts = self.transcripts
        return {
            "prompt": super().fetch(rows, [], False),
            "references": Texts(() if texts is None else (texts[row],) for row in rows),
        }

    def beside(self, rows: Sequence[int]) -> Texts | None:
        """For a CTC network's error rates: the transcripts."""
        if self.task != "ctc" or self.transcripts is None:
            return None
        return Texts(self.transcripts[row] for row in rows)

    def shown(self, row: int) -> dict[str, Any]:
        return {} if self.transcripts is None else {"text": self.transcripts[row]}

    def digest(self) -> bytes:
        return sha256(super().digest() + repr(self.transcripts).encode("utf-8", "surrogatepass")).digest()


def filled(rows: Sequence[Sequence[int]], fill: int, width: int = 1) -> torch.Tensor:
    """`[B, U]` int64, U at least `width`."""
    out = np.full((len(rows), max([1, width, *map(len, rows)])), fill, dtype=np.int64)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(out)
