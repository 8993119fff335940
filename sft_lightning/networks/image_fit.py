"""Checks, on one blank image before training, that a network takes images of the data's size."""

from typing import Any

import torch

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputView, View
from sft_lightning.sharding.tensors import is_sharded

TRIED = (28, 32, 64, 96, 128, 160, 192, 224, 240, 256, 299, 336, 384, 512)
"""Sizes in pixels that are tried, to name one that works"""
SHAPE_ERRORS = (RuntimeError, AssertionError, ValueError, IndexError, TypeError, ZeroDivisionError)


def view_notes(network: Any, own: View | None) -> list[str]:
    """Notes, in at most one line, that a size set by the user replaces the pretrained network's `own` view."""
    view, size, key = network.input_view, getattr(network, "image_size", None), "network's image_size"
    if view.size_of_data and view.size is not None:
        size, key = view.size[0], "data.image_size"
    elif network.pretrained is None:
        return []
    if own is None or size is None or own.size == (size, size):
        return []
    return [
        f"images are {size}×{size}, set by the {key}: shorter side resized (bilinear), centre cropped; the pretrained "
        f"network's own view is not used ({own})"
    ]


def check_shape_fits(network: Any, view: InputView) -> None:
    """Raises UserError if the network cannot take one image of the view's shape. Skips sharded networks."""
    shape = view.shape
    if shape is None or any(map(is_sharded, network.parameters())):
        return
    error = refusal(network, shape)
    if error is None:
        return
    if isinstance(error, UserError):
        raise error
    channels, height, width = shape
    name = f"{network.name} {getattr(network, 'model_name', '')}".strip()
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    tried = {size: refusal(network, (channels, size, size)) for size in TRIED if size != height}
    if all(other is not None and str(other) == str(error) for other in tried.values()):
        return  # all sizes fail alike, so the size is not the cause
    works = next((size for size, other in tried.items() if other is None), None)
    key = "data.init_args.image_size" if view.size_of_data or not hasattr(network, "image_size") else None
    key = key or "network.init_args.image_size"
    advice = f"set {key} {works}" if works is not None else f"set {key} to another size"
    raise UserError("network", f"{name} cannot take images of {height}×{width} pixels ({reason})", advice)


def refusal(network: Any, shape: tuple[int, int, int]) -> Exception | None:
    """The error of one pass on a blank image of `shape`, or None. Restores the network's state afterwards.

    A pass on the meta device comes first, because it costs nothing whatever the network's size. If that fails, perhaps
    for another reason than the shape, a pass on the real device decides.
    """
    modes, compiled = {module: module.training for module in network.modules()}, network._compiled_call_impl
    try:
        network.eval()
        network._compiled_call_impl = None  # so that no shape is compiled for one try
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            if attempt(network, shape, "meta") is None:
                return None
            device = next((p.device for p in network.parameters()), torch.device("cpu"))
            return attempt(network, shape, str(device))
    finally:
        network._compiled_call_impl = compiled
        for module, mode in modes.items():
            module.training = mode


def attempt(network: Any, shape: tuple[int, int, int], device: str) -> Exception | None:
    """The error of one pass on a device, or None; on 'meta' the network's tensors are shapes only."""
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    image = torch.zeros(1, *shape, device=device, dtype=dtype)
    try:
        if device == "meta":
            tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
            shapes = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
            torch.func.functional_call(network, shapes, ({"image": image},))
        else:
            network({"image": image})
    except SHAPE_ERRORS as error:
        return error
    return None
