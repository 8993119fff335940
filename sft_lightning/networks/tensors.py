"""Names of a network's tensors, their groups by layer, and a hash of their values."""

from collections.abc import Iterable, Mapping
from hashlib import sha256

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # bytes; where torch's own memory begins
STATISTICS = ("running_mean", "running_var")


def tensor_names(module: nn.Module) -> list[str]:
    """Names of all tensors that training changes, in a state dict's order: parameters, and running statistics of
    normalisation. Other buffers (masks, indices, counters) are constants of the architecture.
    """
    parameters = {n for n, _ in module.named_parameters(remove_duplicate=False)}
    return [n for n in module.state_dict() if n in parameters or n.endswith(STATISTICS)]


def bottom_up(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Sorts names of `module`'s tensors bottom to top: keeps their order, but puts a transformers base model first. Some models
    define layers above it earlier (XLM-RoBERTa's and CamemBERT's `classifier.dense`).
    """
    base = f"{getattr(module, 'base_model_prefix', '')}."
    return sorted(names, key=lambda name: not name.startswith(base))


def layers_of(names: Iterable[str]) -> str:
    """The layers of these tensors, as a list for a sentence; at most four by name."""
    layers = list(dict.fromkeys(n.rpartition(".")[0] for n in sorted(names)))
    return ", ".join(layers[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")


def group_layers(names: list[str]) -> list[tuple[str, list[str]]]:
    """Groups parameter names into layers, in the given order: one for each numbered block, and one for all that lies below,
    between or above the blocks.
    """
    layers: list[tuple[str, list[str]]] = []
    for name in names:
        parts = name.split(".")
        at = next((i for i, p in enumerate(parts) if p.isdigit()), None)
        key = ".".join(parts[: at + 1]) if at is not None else ""
        if (key and layers and layers[-1][0] == key) or (
            not key and layers and not layers[-1][0].split(".")[-1].isdigit()
        ):
            layers[-1][1].append(name)
        else:
            layers.append((key or ".".join(parts[:-1]), [name]))
    return layers


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and values: the identity of a teacher."""
    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def align(model: nn.Module) -> None:
    """Moves tensors that lie in a file's memory to addresses as of any other tensor.

    There they begin anywhere, and products with them may be rounded otherwise than with a copy: at step 0, student and
    teacher would differ in the last bit.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
