"""Follows the feature extractor of a transformers model of sounds: its rate, its inputs, and what padding does to them."""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.networks.base import Network
from sft_lightning.networks.hf import find, user_errors

MASK, LENGTHS = "attention_mask", "sound_lengths"
FILES = ("preprocessor_config.json", "processor_config.json")
WINDOW = 0.025
"""Seconds of one frame of a spectrogram"""
TRIED = (0.31, 0.2)
"""Seconds of the two sounds on which `padding_shows` tries a network"""


class Extractor:
    """A model's own feature extractor, as `InputSpec.extract` wants it.

    Args:
        own: The feature extractor of transformers.
        least: Fewest samples that the model takes, None for those of one frame of 25 ms; shorter sounds are padded with zeros,
            which then belong to the sound.
    """

    def __init__(self, own: Any, least: int | None = None) -> None:
        self.own, self.rate = own, int(own.sampling_rate)
        self.least = least or round(WINDOW * self.rate)
        self.name: str = own.model_input_names[0]
        padding = signature(type(own).__call__).parameters.get("padding")
        self._options: dict[str, Any] = {"padding": True} if padding is not None and padding.default is False else {}
        if "return_attention_mask" in signature(type(own).__call__).parameters:
            self._options["return_attention_mask"] = True

    @property
    def max_seconds(self) -> float | None:
        """Seconds that the extractor keeps of a sound; None for no limit."""
        if (chunk := getattr(self.own, "chunk_length", None)) is not None:  # Whisper
            return float(chunk)
        frames = getattr(self.own, "max_length", None)  # of 10 ms, in the spectrogram transformer
        return float(frames) / 100 if isinstance(frames, int) and frames > 0 else None

    def __call__(self, sounds: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """The extractor's inputs with B rows, their mask if it gives one, and `sound_lengths[B]`, samples of each sound."""
        grown = [np.pad(sound, (0, max(0, self.least - len(sound)))) for sound in sounds]
        made = self.own(grown, sampling_rate=self.rate, return_tensors="pt", **self._options)
        x = {self.name: made[self.name].float(), LENGTHS: torch.tensor([len(sound) for sound in grown])}
        if MASK in made:
            x[MASK] = made[MASK].long()
        return x


def load_extractor(network: Network, model: Any, trust: bool = False) -> Extractor:
    """The feature extractor beside the pretrained weights, else the one that transformers has for such a model."""
    found = find_extractor(network, model, trust)
    wanted = getattr(model, "main_input_name", found.name)
    if found.name != wanted:
        raise UserError(
            "network.pretrained",
            f"{type(found.own).__name__} makes {found.name}, and {type(model).__name__} takes {wanted}",
            "choose weights with the preprocessor_config.json that belongs to them",
        )
    return found


def find_extractor(network: Network, model: Any, trust: bool) -> Extractor:
    """The feature extractor of `load_extractor`, before its inputs are compared with the model's."""
    from transformers import FEATURE_EXTRACTOR_MAPPING, AutoFeatureExtractor

    least = fewest_samples(model)
    if network.pretrained is not None:
        source = find(network.pretrained, network)
        if source.hub or (source.folder and any((source.folder / name).is_file() for name in FILES)):
            with user_errors("network.pretrained", network.pretrained, type(network).__name__):
                place = source.hub or str(source.folder)
                return Extractor(AutoFeatureExtractor.from_pretrained(place, trust_remote_code=trust), least)
        network.report.notes.append(
            f"{network.pretrained} has no feature extractor: that of transformers for such a model is used"
        )
    config = model.config
    try:
        kind: Any = FEATURE_EXTRACTOR_MAPPING[type(config)]
        kind = kind[-1] if isinstance(kind, tuple) else kind
    except KeyError:
        raise UserError(
            "network.pretrained",
            f"transformers has no feature extractor for a {config.model_type}",
            "choose weights with a preprocessor_config.json",
        ) from None
    settings: dict[str, Any] = {}
    if (mels := getattr(config, "num_mel_bins", None)) is not None:
        settings["num_mel_bins" if "num_mel_bins" in signature(kind).parameters else "feature_size"] = mels
    if isinstance(getattr(config, "max_length", None), int) and "max_length" in signature(kind).parameters:
        settings["max_length"] = config.max_length
    if (positions := getattr(config, "max_source_positions", None)) is not None and "chunk_length" in signature(
        kind
    ).parameters:
        settings["chunk_length"] = positions // 50  # Whisper's, of 20 ms
    if hasattr(config, "feat_extract_norm"):  # a norm over time would count padding, so these models take no mask
        settings |= {"do_normalize": True, "return_attention_mask": config.feat_extract_norm == "layer"}
    return Extractor(kind(**settings), least)


def fewest_samples(model: Any) -> int | None:
    """Samples of the shortest sound of which the model's convolutions make a frame; None for models without them."""
    kernels, strides = getattr(model.config, "conv_kernel", None), getattr(model.config, "conv_stride", None)
    if not kernels or not strides:
        return None
    samples = int(getattr(model.config, "squeeze_factor", 1))  # frames that SEW makes one of
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        samples = (samples - 1) * stride + kernel
    return int(samples)


def drop_mask(model: Any) -> None:
    """Removes the vector that SpecAugment puts in place of frames, which would get no gradient, since SpecAugment is off."""
    base = model.base_model
    if isinstance(getattr(base, "masked_spec_embed", None), torch.nn.Parameter):
        del base.masked_spec_embed


def calm(model: Any) -> list[str]:
    """Turns off what draws at random in training beside dropout: SpecAugment and skipped layers. Returns a note, if any was on.

    Their draws come from numpy or from outside the layers, so a resumed or a divided batch would not be the same.
    """
    config, off = model.config, []
    if getattr(config, "apply_spec_augment", False) and (
        getattr(config, "mask_time_prob", 0) or getattr(config, "mask_feature_prob", 0)
    ):
        off.append("SpecAugment")
    for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
        if getattr(config, name, 0):
            setattr(config, name, 0.0)
            off.append(name)
            for module in model.modules():
                if isinstance(getattr(module, "layerdrop", None), float):
                    module.layerdrop = 0.0
    if hasattr(config, "apply_spec_augment"):
        config.apply_spec_augment = False
    return [f"{', '.join(off)} of the pretrained model: off"] if off else []


@torch.no_grad()
def padding_shows(extract: Extractor, run: Callable[[dict[str, Tensor]], Tensor]) -> bool:
    """Whether a sound's output changes if a longer one stands beside it in the batch. Needs evaluation mode.

    `run` gives `[B, …]`, whose further dimensions are compared as far as the sound's own output goes.
    """
    random = np.random.default_rng(0)
    longer, sound = (random.normal(0, 0.1, round(s * extract.rate)).astype(np.float32) for s in TRIED)
    alone, beside = run(extract([sound]))[0], run(extract([longer, sound]))[1]
    beside = beside[: len(alone)] if alone.ndim > 1 else beside
    return not torch.allclose(alone, beside, rtol=1e-4, atol=1e-5 * float(alone.abs().max()) + 1e-7)


def by_length(x: dict[str, Tensor], name: str, run: Callable[[dict[str, Tensor]], Tensor]) -> Tensor:
    """`run` on sounds of one length at a time, without padding and mask, in the order of `x`: `[B, …]`.

    For models whose answers depend on padding. Further dimensions are padded with zeros to those of the longest.
    """
    lengths, parts, order = x[LENGTHS], list[Tensor](), list[Tensor]()
    for length in sorted(set(lengths.tolist())):
        rows = (lengths == length).nonzero()[:, 0]
        parts.append(run({name: x[name][rows, :length]}))
        order.append(rows)
    if parts[0].ndim > 2:
        most = max(part.shape[1] for part in parts)
        parts = [torch.nn.functional.pad(part, (0, 0, 0, most - part.shape[1])) for part in parts]
    return torch.cat(parts)[torch.cat(order).argsort()]
