"""Base of audio data: the rate and the length of sounds, and what was converted or cut, with counts."""

from typing import Annotated, Any, ClassVar

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, InputView
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import Range, check_arguments
from sft_lightning.data.audio.sounds import Sounds
from sft_lightning.data.base import SFTDataModule

LONGEST = 30.0
"""Seconds at which sounds are cut if neither the user nor the network sets a limit"""
TAKES = {"audio": "sounds to classify", "speech": "speech to write down", "image": "images"}


class AudioData(SFTDataModule, base=True):
    """Sounds in files, mixed to one channel and resampled to the network's rate.

    Args:
        max_seconds: Seconds of a sound that are used, from its beginning; default the network's limit, else 30.
        group_by_length: Make batches of sounds of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    kind: ClassVar[str] = "audio"

    def __init__(
        self,
        max_seconds: Annotated[float, Range(0, open_below=True)] | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_arguments(AudioData.__init__, locals())
        self.max_seconds, self.group_by_length = max_seconds, group_by_length
        self.limit = 0.0
        """Seconds at which sounds are cut, once settled"""

    def prepare(self, spec: InputSpec) -> InputView:
        """Fits the sounds to the network's rate and limit."""
        if spec.kind != self.kind or spec.sample_rate is None:
            raise UserError(
                "network",
                f"{spec.network} takes {TAKES.get(spec.kind, 'texts')}, {type(self).__name__} has {TAKES[self.kind]}",
                "choose another network or other data",
            )
        if self.max_seconds is not None and self.max_seconds > (spec.max_seconds or self.max_seconds):
            raise UserError(
                "data.max_seconds",
                f"{self.max_seconds:g} is more than the {spec.max_seconds:g} seconds that the network takes",
                f"set it to {spec.max_seconds:g} or less",
            )
        self.limit = self.max_seconds or spec.max_seconds or LONGEST
        for samples in self._all_sounds():
            samples.group_by_length = self.group_by_length
            samples.fit(spec, self.limit)
            samples.keep()
        return InputView(sample_rate=spec.sample_rate)

    def _all_sounds(self) -> list[Sounds]:
        found = {id(split.samples): split.samples for split in self.splits.values()}
        return [samples for samples in found.values() if isinstance(samples, Sounds)]

    def describe(self) -> str:
        """Adds the rate, what was resampled or mixed, and the share that was cut."""
        line = super().describe()
        if self.view is None or self.view.sample_rate is None:
            return line
        rate, others, mixed, total, cut = self.view.sample_rate, dict[int, int](), 0, 0, []
        for name, split in self.splits.items():
            assert isinstance(split.samples, Sounds)
            every = split.samples.headers()
            headers = [h for row in split.rows if (h := every[int(row)]) is not None]
            total += len(headers)
            mixed += sum(h.channels > 1 for h in headers)
            for h in headers:
                if h.rate != rate:
                    others[h.rate] = others.get(h.rate, 0) + 1
            if share := float(np.mean(split.samples.cut()[split.rows])):
                cut.append(f"{share:.1%} of {name}")
        parts = [f"{plural(total, 'sound')} at {rate:,} Hz"]
        if others:
            of = ", ".join(f"{count:,} of {own:,} Hz" for own, count in sorted(others.items()))
            parts.append(f"resampled: {of}")
        if mixed:
            parts.append(f"mixed to mono: {mixed:,}")
        if cut:
            parts.append(f"cut at {self.limit:g} s: {', '.join(cut)}")
        return "; ".join([line, *parts])
