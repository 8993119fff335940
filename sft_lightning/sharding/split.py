"""Which modules of a network are gathered and let go of together."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from sft_lightning.core.errors import UserError


def shard(network: nn.Module, mesh: DeviceMesh, precision: MixedPrecisionPolicy | None = None) -> None:
    """Leaves each rank of the mesh its part of every parameter, on the mesh's device; buffers stay whole.

    A block's parameters are gathered when it is called, in forward and in backward, and let go of after it. What is in no
    block (embeddings, heads) is gathered for the whole of a pass. Between passes a rank holds its parts alone.
    """
    for name, parameter in network.named_parameters():
        if not parameter.ndim:
            raise UserError("trainer.strategy", f"fsdp2 cannot split {name}, a single number", "use ddp")
    precision = precision or MixedPrecisionPolicy()
    how: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": True}
    owners = tensors_of(network)
    for block in [b for b in blocks(network) if all(owners[i] == n for i, n in tensors_of(b).items())]:
        fully_shard(block, **how, mp_policy=replace(precision, output_dtype=None))  # what blocks pass on stays low
    fully_shard(network, **how, mp_policy=precision)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that stand in a list or a sequence, and have parts of their own."""
    for child in module.children():
        composed = next(child.children(), None) is not None and next(child.parameters(), None) is not None
        if composed and isinstance(module, nn.ModuleList | nn.Sequential):
            yield child
        else:
            yield from blocks(child)


def share_statistics(network: nn.Module) -> None:
    """From here on each pass begins with the first rank's running statistics of BatchNorm, as in DDP."""
    norms = batchnorms(network)

    def share(*_: Any) -> None:
        for norm in norms:
            for tensor in norm.buffers(recurse=False):
                dist.broadcast(tensor, 0)

    network.register_forward_pre_hook(share)


def batchnorms(module: nn.Module) -> list[nn.Module]:
    """All layers that keep running statistics."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def tensors_of(module: nn.Module) -> Counter[int]:
    """How often each parameter is registered in a module: tied ones more than once."""
    return Counter(id(p) for m in module.modules() for p in m.parameters(recurse=False))
