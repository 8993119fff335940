"""Finds what a model's own image processor does to an image, by running it: works for any class of processors.

The processor itself resizes and crops. Its changes to pixel values (rescale, offset, normalise, divide again) are
measured on images of one colour, and expressed as one mean and std for each channel.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

VALUES = ("do_rescale", "do_normalize", "rescale_offset", "include_top", "do_flip_channel_order")
"""Processors' steps on pixel values, which the view turns off, so that bytes stay bytes"""
SEEN = ((37, 61), (61, 37))
"""Height and width of the images that the processor is tried on"""


class NotFollowed(ValueError):
    """A view cannot express what the processor does; the message says why."""


@dataclass(frozen=True)
class ProcessorView:
    """The processor's own resize and crop, from bytes to bytes, with channels in the order red, green, blue."""

    processor: Any = field(compare=False)
    settings: str
    """The processor's settings as text; they alone decide whether two views are equal"""
    size: tuple[int, int]
    """height, width of its output in pixels, for any image"""
    reverses: bool = False
    """Whether the processor reverses the channels even with VALUES off"""

    def __call__(self, image: Tensor) -> Tensor:
        off = {name: False for name in VALUES if hasattr(self.processor, name)}
        made = shown(self.processor, image, **off).round().clamp(0, 255).to(torch.uint8)
        return made.flip(0) if self.reverses else made

    def to_dict(self) -> dict[str, Any]:
        return {"processor": type(self.processor).__name__}

    def __str__(self) -> str:
        return type(self.processor).__name__


@dataclass
class Processed:
    """A processor's effect in a data module's terms."""

    view: ProcessorView
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """per channel, of pixels in [0, 1], in the network's order"""
    reverse_channels: bool


def ask(processor: Any, channels: int) -> Processed:
    """Raises NotFollowed if the processor's images vary in size, or its values are not linear in the pixels' values."""
    view = ProcessorView(processor, str(sorted(processor.to_dict().items())), (0, 0))
    made = [view(torch.zeros(channels, *shape, dtype=torch.uint8)) for shape in SEEN]
    if made[0].ndim != 3 or made[0].shape[0] != channels:
        raise NotFollowed(f"it makes tensors of shape {list(made[0].shape)}, not images of {channels} channels")
    if made[0].shape != made[1].shape:
        raise NotFollowed("its images vary in size")
    colour = view(one_colour((0, 128, 255)[:channels]))
    reverses = channels == 3 and bool((colour[0] > colour[2]).any())
    view = ProcessorView(view.processor, view.settings, (made[0].shape[1], made[0].shape[2]), reverses)
    black, grey, white = (values_of(processor, (level,) * channels) for level in (0, 64, 255))
    step = white - black
    if bool((step == 0).any()) or apart(grey, black + step * (64 / 255), step):
        raise NotFollowed("its values are not linear in the pixels' values")
    reverse = False
    if channels == 3:
        one, levels = values_of(processor, (0, 128, 255)), torch.tensor([0, 128, 255]).double() / 255
        reverse = apart(one, black + step * levels, step)
        if reverse and apart(one, black + step * levels.flip(0), step):
            raise NotFollowed("it mixes the channels")
    mean, std = -black / step, 1 / step
    stated = stated_normalisation(processor, channels)
    if stated is None or apart(torch.tensor(stated[0]), mean, std) or apart(torch.tensor(stated[1]), std, std):
        stated = tuple(mean.tolist()), tuple(std.tolist())
    return Processed(view, *stated, reverse)


def apart(one: Tensor, other: Tensor, scale: Tensor) -> bool:
    """Whether two tensors differ by more than single precision explains, for values that span `scale`."""
    return bool(((one.double() - other.double()).abs() > 1e-4 * scale.abs()).any())


def stated_normalisation(processor: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std from the settings, exact where measured ones are rounded; None if the settings lack them."""
    if not getattr(processor, "do_normalize", False):
        return (0.0,) * channels, (1.0,) * channels
    mean, std = (getattr(processor, name, None) for name in ("image_mean", "image_std"))
    if not isinstance(mean, (list, tuple)) or not isinstance(std, (list, tuple)):
        return None
    return (tuple(map(float, mean)), tuple(map(float, std))) if len(mean) == len(std) == channels else None


def values_of(processor: Any, colour: tuple[int, ...]) -> Tensor:
    """`[C]` float64: the middle pixel of a processed image of one colour."""
    made = shown(processor, one_colour(colour)).double()
    return made[:, made.shape[1] // 2, made.shape[2] // 2]


def one_colour(colour: tuple[int, ...]) -> Tensor:
    """uint8 `[C, H, W]`"""
    return torch.tensor(colour, dtype=torch.uint8).view(-1, 1, 1).expand(-1, *SEEN[0]).contiguous()


def shown(processor: Any, image: Tensor, **options: Any) -> Tensor:
    """Runs the processor on one image. Raises NotFollowed if it cannot be run, or gives something other than a tensor."""
    try:
        made = processor(image, return_tensors="pt", input_data_format="channels_first", **options)["pixel_values"][0]
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError, ImportError, AttributeError) as error:
        lines = str(error).strip().splitlines()
        raise NotFollowed(f"it cannot be run ({lines[0] if lines else type(error).__name__})") from None
    if not isinstance(made, Tensor):
        raise NotFollowed(f"it makes a {type(made).__name__} instead of a tensor")
    return made


def load_processor(place: str) -> Any:
    """The image processor of a folder or a hub's model. Raises NotFollowed if transformers cannot build it."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(place)
    except Exception as error:  # the processor's code may raise anything on the file's values
        lines = str(error).strip().splitlines()
        raise NotFollowed(f"transformers cannot build it: {lines[0] if lines else type(error).__name__}") from None


def of_size(processor: Any, size: tuple[int, int], channels: int) -> Any:
    """A processor of the same kind for another size; None if it does not take that size."""
    values = processor.to_dict()
    for name in ("size", "crop_size"):
        old = values.get(name)
        if isinstance(old, dict):
            sides = {"height": size[0], "width": size[1], "shortest_edge": min(size), "longest_edge": max(size)}
            values[name] = {key: sides.get(key, value) for key, value in old.items() if value is not None}
    try:
        made = type(processor).from_dict(values)
        return made if ask(made, channels).view.size == size else None
    except (NotFollowed, TypeError, ValueError):
        return None
