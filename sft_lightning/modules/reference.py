"""The start that an anchor reads in each step, kept in less memory than the teacher: in bfloat16, or on the host.

Measurements still compare with the teacher in full precision, whose weights are left on disk between them. A value rounded to
bfloat16 changes by 2⁻⁸ of itself at most. So the anchor is not exactly 0 at step 0.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Output
from sft_lightning.modules.teacher import Teacher
from sft_lightning.networks.base import Network

DTYPES = {"bf16": torch.bfloat16}
"""Dtypes of the reference by option name"""


class ReferenceWeights:
    """w⁰ of the anchored weights, as a penalty reads them.

    Args:
        start: The teacher's weights by name.
        dtype: Name of the dtype to keep them in; None for their own.
        offload: Whether they lie in pinned memory of the host. They are copied to the GPU a few tensors at a time.
    """

    def __init__(self, start: Mapping[str, Tensor], dtype: str | None = None, offload: bool = False) -> None:
        kept = {n: t.to(DTYPES[dtype] if dtype else t.dtype) for n, t in start.items()}
        self._kept = {n: t.cpu().pin_memory() for n, t in kept.items()} if offload else kept

    def of(self, names: Sequence[str]) -> list[Tensor]:
        """w⁰ of the named parameters."""
        return [self._kept[n] for n in names]

    @property
    def tensors(self) -> list[Tensor]:
        """All that is kept."""
        return list(self._kept.values())


class ReferenceNetwork:
    """The frozen pretrained network with weights and arithmetic in a smaller dtype.

    Args:
        teacher: The network in full precision.
        dtype: Name of the dtype.
    """

    def __init__(self, teacher: Teacher, dtype: str) -> None:
        self.dtype = DTYPES[dtype]
        rounded: dict[int, Any] = {}  # copied instead of the teacher's, so that there never are two whole copies
        for weight in teacher.network.parameters():
            rounded[id(weight)] = nn.Parameter(self._cast(weight.data), requires_grad=False)
        for buffer in teacher.network.buffers():
            rounded[id(buffer)] = self._cast(buffer).clone()
        self.network: Network = deepcopy(teacher.network, rounded)

    @property
    def tensors(self) -> list[Tensor]:
        """Weights and buffers."""
        return [*self.network.parameters(), *self.network.buffers()]

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    @torch.no_grad()
    def __call__(self, x: Mapping[str, Tensor], select: Tensor | None = None) -> Output:
        """Its output in single precision.

        Raises:
            UserError: A layer cannot compute in this dtype.
        """
        try:
            output: Output = self.network({n: self._cast(t) for n, t in x.items()}, select)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise UserError(
                "model.reference_dtype",
                f"the network cannot compute in {self.dtype}: {str(error).splitlines()[0]:.120}",
                "leave it out",
            ) from None
        wide: dict[str, Any] = {
            n: t.float() for n, t in output._asdict().items() if isinstance(t, Tensor) and t.is_floating_point()
        }
        return output._replace(**wide)


def check_reference(module: Any, dtype: str | None, offload: bool = False) -> None:
    """Raises UserError if the trainer, or the device, gives these settings no effect."""
    if dtype is None and not offload:
        return
    key = "model.reference_dtype" if dtype is not None else "model.reference_offload"
    if module.teacher is not None and module.teacher.sharded:
        raise UserError(key, "does not work with trainer.strategy fsdp2, where each rank has a part", "leave it out")
    if offload and module.device.type != "cuda":
        raise UserError(
            "model.reference_offload", f"needs a GPU, and the run is on {module.device.type}", "leave it out"
        )
    if dtype is not None and next(iter(module.parameters())).dtype == DTYPES[dtype]:
        raise UserError(
            "model.reference_dtype",
            f"{dtype} has no effect with trainer.precision {module.trainer.precision}, which has all weights in it",
            "leave it out",
        )
