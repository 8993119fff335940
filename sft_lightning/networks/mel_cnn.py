"""A small convolutional network on the log-mel spectrogram of a sound: the baseline from scratch, and a default to embed."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.small import SmallNetwork
from sft_lightning.networks.transforms import Transform
from sft_lightning.networks.weights import resolve

RATE = 16_000
"""Samples per second, if neither the user nor the pretrained network says"""
WINDOW, HOP = 0.025, 0.010
"""Seconds of a frame's window, and from one frame to the next"""
FLOOR = 1e-6
"""Power below which the logarithm sees silence"""
LEAST_VARIANCE = 0.01
"""Added to the variance of a spectrogram, so that rounding in one that is flat stays small"""


class LogMel(nn.Module):
    """The logarithm of a mel spectrogram, as transformers' `spectrogram` has it: Hann windows, power, Slaney's mels.

    Frames are centred, and zeros surround the sound, so that padding a batch with zeros changes no frame of a sound.

    Args:
        sample_rate: In samples per second.
        mels: Bands of the filter bank.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, mels: int) -> None:
        super().__init__()
        from transformers.audio_utils import mel_filter_bank

        self.length, self.hop = 2 * round(WINDOW * sample_rate / 2), round(HOP * sample_rate)
        self.fft = 1 << (self.length - 1).bit_length()
        bank = mel_filter_bank(
            self.fft // 2 + 1, mels, 0.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("window", torch.hann_window(self.length), persistent=False)
        self.register_buffer("filters", torch.from_numpy(bank).float().T.contiguous(), persistent=False)

    def frames(self, lengths: Tensor) -> Tensor:
        """Number of frames of sounds of so many samples."""
        return 1 + lengths // self.hop

    def forward(self, sound: Tensor) -> Tensor:
        """`[B, M, T]` of `sound[B, S]`, in single precision at least."""
        with torch.autocast(sound.device.type, enabled=False):
            return self._log_mel(sound)

    def _log_mel(self, sound: Tensor) -> Tensor:
        sound = sound.to(torch.promote_types(sound.dtype, torch.float32))
        spectrum = torch.stft(
            sound,
            self.fft,
            self.hop,
            self.length,
            self.window.to(sound.dtype),
            center=True,
            pad_mode="constant",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return (self.filters.to(sound.dtype) @ power).clamp(min=FLOOR).log()


def there(frames: Tensor, width: int) -> Tensor:
    """`[B, 1, 1, T]` bool: which frames of a batch are a sound's own."""
    return (torch.arange(width, device=frames.device) < frames[:, None])[:, None, None]


class Block(nn.Module):
    """A convolution of stride 2 over bands and frames, a norm over channels, and ReLU. Frames after a sound stay 0.

    Args:
        before, after: Channels.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(before, after, 3, stride=2, padding=1), nn.LayerNorm(after)

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(`[B, C, M/2, T/2]`, frames of each sound), rounded up, of `x[B, C, M, T]`."""
        x = self.norm(self.conv(x).transpose(1, -1)).transpose(1, -1).relu()
        frames = (frames + 1) // 2
        return x * there(frames, x.shape[-1]), frames


class MelEncoder(nn.Module):
    """Log-mel spectrogram, blocks of convolutions, mean and maximum over a sound's frames, and one hidden layer.

    Args:
        sample_rate: In samples per second.
        mels: Bands of the spectrogram.
        channels: Channels of each block.
        hidden: Units of the hidden layer.
    """

    def __init__(self, sample_rate: int, mels: int, channels: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.mel = LogMel(sample_rate, mels)
        self.blocks = nn.ModuleList(Block(a, b) for a, b in zip([1, *channels], channels, strict=False))
        bands = mels
        for _ in channels:
            bands = (bands + 1) // 2
        self.hidden, self.dropout = nn.Linear(2 * bands * channels[-1], hidden), nn.Dropout(0.0)

    def forward(self, sound: Tensor, lengths: Tensor) -> Tensor:
        """`[B, hidden]` of `sound[B, S]`, of which the first `lengths[B]` samples are the sound."""
        frames = self.mel.frames(lengths)
        x = self.standardised(self.mel(sound)[:, None], frames).to(self.hidden.weight.dtype)
        for block in self.blocks:
            x, frames = block(x, frames)
        x = x.flatten(1, 2)
        mean = x.sum(-1) / frames[:, None]
        features: Tensor = self.dropout(self.hidden(torch.cat([mean, x.amax(-1)], -1)).relu())
        return features

    def standardised(self, x: Tensor, frames: Tensor) -> Tensor:
        """`x[B, 1, M, T]` with mean 0 and variance 1 over each sound's own frames, so that loudness has no effect; 0 after."""
        own = there(frames, x.shape[-1])
        count = (frames * x.shape[2])[:, None, None, None]
        centred = (x - (x * own).sum((1, 2, 3), keepdim=True) / count) * own
        spread = (centred.square().sum((1, 2, 3), keepdim=True) / count + LEAST_VARIANCE).sqrt()
        return centred / spread


class MelCNN(SmallNetwork):
    """A small convolutional network on log-mel spectrograms; it takes sounds of any length.

    Args:
        task: What is predicted; given by the module.
        sample_rate: Rate to which sounds are resampled, in samples per second; default the pretrained network's, else 16000.
        mels: Bands of the spectrogram.
        channels: Channels of each block of convolutions, bottom to top.
        hidden: Units of the layer below the head.
        dropout: Probability of dropping a unit of that layer.
        pretrained: Where weights come from: a run directory, an export folder, a state dict file; null for random ones.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    def __init__(
        self,
        task: TaskInfo,
        sample_rate: int | None = None,
        mels: int = 40,
        channels: Sequence[int] = (16, 32, 64),
        hidden: int = 128,
        dropout: float = 0.0,
        pretrained: str | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        theirs = None if pretrained is None else (resolve(pretrained).ours.get("input") or {}).get("sample_rate")
        self.sample_rate, self.mels = sample_rate or theirs or RATE, mels
        self.channels, self.hidden = list(channels), hidden
        least = {"sample_rate": (self.sample_rate, 1000), "mels": (mels, 1), "hidden": (hidden, 1)}
        for name, (value, smallest) in least.items():
            if value < smallest:
                raise UserError(f"network.{name}", f"must be at least {smallest}, got {value}")
        if not self.channels or min(self.channels) < 1:
            raise UserError("network.channels", f"must name the channels of each block, got {self.channels}")
        if theirs is not None and theirs != self.sample_rate:
            raise UserError(
                "network.sample_rate",
                f"{pretrained} was trained at {theirs} Hz, got {self.sample_rate}",
                f"set it to {theirs}, or leave it out",
            )
        encoder = MelEncoder(self.sample_rate, mels, self.channels, hidden)
        set_dropout(encoder, dropout)
        self.start_from(pretrained, keep_source_head, encoder, hidden)

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec("audio", sample_rate=self.sample_rate)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, hidden]`"""
        features: Tensor = self.encoder(x["sound"], x["sound_lengths"])
        return features

    def export_config(self) -> dict[str, object]:
        return {"sample_rate": self.sample_rate, "mels": self.mels, "channels": self.channels, "hidden": self.hidden}
