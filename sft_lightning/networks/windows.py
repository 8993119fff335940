"""Runs a network whose outputs are maps over windows of large images, and averages the maps where windows overlap."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Output
from sft_lightning.sharding.tensors import is_sharded

MAPS = ("logits", "features", "source_logits", "below_new")


def exceeds(x: dict[str, Tensor], window: tuple[int, int]) -> bool:
    """Whether images `[B, C, H, W]` are larger than one window."""
    return max(x["image"].shape[-2:]) > window[0]


def starts(side: int, window: int, step: int) -> list[int]:
    """Where windows begin along a side: every `step` pixels, and one that ends where the side does."""
    return [*range(0, max(0, side - window), step), max(0, side - window)]


def check_sizes(size: tuple[int, int] | None, parameters: Iterable[nn.Parameter]) -> None:
    """Raises UserError if parameters are in parts, and images of their own size: ranks gather parts for each window, so that
    those with fewer windows would wait for ever.
    """
    if size is None and any(map(is_sharded, parameters)):
        problem = (
            "without data.image_size does not work with trainer.strategy fsdp2: ranks would have different windows"
        )
        raise UserError("data.window", problem, "set data.image_size, or use ddp")


def in_windows(
    one: Callable[[dict[str, Tensor]], Output], x: dict[str, Tensor], select: Tensor | None, window: tuple[int, int]
) -> Output:
    """The maps of the whole images that `select[B]` marks, or of all, each place the mean over the windows that it lies in.

    Args:
        one: Makes the output of images of one window.
        x: The network's inputs; `image` is `[B, C, H, W]`.
        select: The images to see; None for all.
        window: Height and width of a window, and pixels from one to the next.
    """
    if select is None:
        return averaged(one, x, window)
    if bool(select.any()):
        return averaged(one, {name: value[select] for name, value in x.items()}, window)
    found = averaged(one, {name: value[:1] for name, value in x.items()}, window)  # not every network takes no image
    none = (None if maps is None else maps[:0] for maps in (getattr(found, name) for name in MAPS))
    return Output(**dict(zip(MAPS, none, strict=True)))  # type: ignore[arg-type]


def averaged(one: Callable[[dict[str, Tensor]], Output], x: dict[str, Tensor], window: tuple[int, int]) -> Output:
    """The maps of whole images, each place the mean over the windows that it lies in; of one window, as it is.

    Windows are passed one after another, so that a pass takes the memory of B windows. The maps of all windows are summed in
    single precision at least, at the network's own resolution: (H / s) · (W / s) values for each output and feature, if a
    place of the map is s pixels wide.
    """
    side, step = window
    height, width = x["image"].shape[-2:]
    tops, lefts = starts(height, side, step), starts(width, side, step)
    sums: dict[str, Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for top in tops:
        for left in lefts:
            part = one({**x, "image": x["image"][..., top : top + side, left : left + side].contiguous()})
            for name in MAPS:
                maps: Tensor | None = getattr(part, name)
                if maps is None:
                    continue
                down = scale(min(side, height), maps.shape[1], (height, *tops))
                across = scale(min(side, width), maps.shape[2], (width, *lefts))
                if name not in sums:
                    dtypes[name] = maps.dtype
                    shape = (len(maps), height // down, width // across, maps.shape[-1])
                    sums[name] = maps.new_zeros(shape, dtype=torch.promote_types(maps.dtype, torch.float32))
                rows = slice(top // down, top // down + maps.shape[1])
                columns = slice(left // across, left // across + maps.shape[2])
                sums[name][:, rows, columns] += maps
    found = {name: mean(total, side, (height, width), (tops, lefts)).to(dtypes[name]) for name, total in sums.items()}
    return Output(found["logits"], found["features"], found.get("source_logits"), found.get("below_new"))


def scale(pixels: int, places: int, at: Sequence[int]) -> int:
    """Pixels that a place of a map is wide. Raises UserError unless windows begin where places do."""
    wide, rest = divmod(pixels, places)
    if rest or any(number % wide for number in at):
        numbers = ", ".join(map(str, sorted(set(at))))
        raise UserError(
            "data.window",
            f"windows of {pixels} pixels have maps of {places} places, so that windows cannot begin at {numbers} pixels",
            "set another window, or image_size to a multiple of 32",
        )
    return wide


def mean(total: Tensor, side: int, size: tuple[int, int], starts_of: tuple[list[int], list[int]]) -> Tensor:
    """Sums of maps `[R, h, w, C]` over the number of windows that each place lies in."""
    counts = []
    for places, pixels, begins in zip(total.shape[1:3], size, starts_of, strict=True):
        wide, found = pixels // places, torch.zeros(places, dtype=total.dtype, device=total.device)
        for begin in begins:
            found[begin // wide : (begin + min(side, pixels)) // wide] += 1
        counts.append(found)
    return total / (counts[0][:, None] * counts[1])[:, :, None]
