"""What a model's own image processor does to an image, found by asking it: no class of processors is known by name.

The processor itself resizes and crops. What it does to the pixels' values afterwards (rescale, offset, normalise, divide
again) is measured on images of one colour, and is one mean and std for each channel.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

VALUES = ("do_rescale", "do_normalize", "rescale_offset", "include_top", "do_flip_channel_order")
"""Steps on values, which are turned off where the processor has them, so that bytes stay bytes"""
SEEN = ((37, 61), (61, 37))
"""Height and width of the images that are shown to it"""


class NotFollowed(ValueError):
    """The processor does what no view can: the message says what."""


@dataclass(frozen=True)
class ProcessorView:
    """The processor's own resizing and cropping; bytes in, bytes out, in the order red, green, blue."""

    processor: Any = field(compare=False)
    settings: str
    """The processor's settings as text: two with the same ones are equal"""
    size: tuple[int, int]
    """height, width in pixels, whatever the image's"""
    reverses: bool = False
    """Whether it turns the channels round even so"""

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
    """What a processor does, in a data module's terms."""

    view: ProcessorView
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """per channel, of pixels in [0, 1], in the network's order"""
    reverse_channels: bool


def ask(processor: Any, channels: int) -> Processed:
    """Raises NotFollowed where the processor gives images of no fixed size, or values that are no line of the pixels'."""
    view = ProcessorView(processor, str(sorted(processor.to_dict().items())), (0, 0))
    made = [view(torch.zeros(channels, *shape, dtype=torch.uint8)) for shape in SEEN]
    if made[0].ndim != 3 or made[0].shape[0] != channels:
        raise NotFollowed(f"it makes tensors of shape {list(made[0].shape)}, not images of {channels} channels")
    if made[0].shape != made[1].shape:
        raise NotFollowed("its images have no fixed size")
    colour = view(one_colour((0, 128, 255)[:channels]))
    reverses = channels == 3 and bool((colour[0] > colour[2]).any())
    view = ProcessorView(view.processor, view.settings, (made[0].shape[1], made[0].shape[2]), reverses)
    black, grey, white = (values_of(processor, (level,) * channels) for level in (0, 64, 255))
    step = white - black
    if bool((step == 0).any()) or apart(grey, black + step * (64 / 255), step):
        raise NotFollowed("its values are no line of the pixels' values")
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
    """Whether two differ by more than single precision explains, for values that span `scale`."""
    return bool(((one.double() - other.double()).abs() > 1e-4 * scale.abs()).any())


def stated_normalisation(processor: Any, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std as the settings state them, exact where the measured ones are rounded; None where they do not."""
    if not getattr(processor, "do_normalize", False):
        return (0.0,) * channels, (1.0,) * channels
    mean, std = (getattr(processor, name, None) for name in ("image_mean", "image_std"))
    if not isinstance(mean, (list, tuple)) or not isinstance(std, (list, tuple)):
        return None
    return (tuple(map(float, mean)), tuple(map(float, std))) if len(mean) == len(std) == channels else None


def values_of(processor: Any, colour: tuple[int, ...]) -> Tensor:
    """`[C]` float64: the middle of what an image of one colour becomes."""
    made = shown(processor, one_colour(colour)).double()
    return made[:, made.shape[1] // 2, made.shape[2] // 2]


def one_colour(colour: tuple[int, ...]) -> Tensor:
    """uint8 `[C, H, W]`"""
    return torch.tensor(colour, dtype=torch.uint8).view(-1, 1, 1).expand(-1, *SEEN[0]).contiguous()


def shown(processor: Any, image: Tensor, **options: Any) -> Tensor:
    """What the processor makes of one image. Raises NotFollowed where it makes no tensor of it."""
    try:
        made = processor(image, return_tensors="pt", input_data_format="channels_first", **options)["pixel_values"][0]
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError, ImportError, AttributeError) as error:
        lines = str(error).strip().splitlines()
        raise NotFollowed(f"it cannot be run ({lines[0] if lines else type(error).__name__})") from None
    if not isinstance(made, Tensor):
        raise NotFollowed("it makes no tensor")
    return made


def load_processor(place: str) -> Any:
    """The image processor of a folder or a hub's model. Raises NotFollowed where transformers cannot build it."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(place)
    except Exception as error:  # its own code builds it from the file's values
        lines = str(error).strip().splitlines()
        raise NotFollowed(f"transformers cannot build it: {lines[0] if lines else type(error).__name__}") from None


def of_size(processor: Any, size: tuple[int, int], channels: int) -> Any:
    """A processor of the same kind for another size; None where it takes none."""
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
