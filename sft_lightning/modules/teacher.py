"""The teacher: a frozen copy of the pretrained network, outside the module tree."""

import tempfile
from collections.abc import Iterator
from copy import deepcopy
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from sft_lightning.core import cache
from sft_lightning.core.structures import Output
from sft_lightning.networks.base import Network
from sft_lightning.networks.tensors import weights_hash
from sft_lightning.sharding.split import shard

LARGE = 256 << 20
"""Bytes of weights from which on they are left on disk while nobody needs them"""


class Teacher:
    """f_θ⁰, the frozen pretrained network, with its weights w_S⁰.

    It is a plain object, so state_dict, DDP, optimizers and `train()` do not see it. It is always in evaluation mode and
    has no gradients. It is copied from the network right after `pretrained` was loaded and before a checkpoint is restored,
    so a resumed run has the same teacher; its `hash` covers everything that `pretrained` filled. New layers, which are
    random in the student, are zero here, so that all seeds have the same teacher.

    Args:
        network: The student, just built.
        spec: The student's specification, as plain values.
    """

    def __init__(self, network: Network, spec: object = None) -> None:
        self.network = deepcopy(network).requires_grad_(False).eval()
        known, new = network.shared_parameters(), {f"encoder.{n}" for n in network.fresh}
        for parameter in self.network.new_parameters().values():
            parameter.zero_()
        self.initial: dict[str, Tensor] = {n: p.data for n, p in self.network.named_parameters() if n in known}
        buffers = {
            n: b for n, b in self.network.named_buffers() if n.startswith(("encoder.", "source_head.")) and n not in new
        }
        heads = {n: p for n, p in self.network.named_parameters() if n.startswith("source_head.")}
        self.hash = weights_hash({**self.initial, **heads, **buffers})
        self.sharded = False
        self._on_disk: dict[str, Tensor] = {}  # the same weights, mapped from a file
        self._whole = (repr(spec), "")  # identifies this teacher; the hash of all weights is computed on first use

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        """Moves it to the student's device and precision."""
        first = next(self.network.parameters())
        if first.device == device and first.dtype == (dtype or first.dtype):
            return
        self.network.to(device=device, dtype=dtype)
        self._note_start()

    def shard(self, mesh: DeviceMesh, precision: MixedPrecisionPolicy) -> None:
        """Shards it like the student, so that each rank has the same part of both."""
        shard(self.network, mesh, precision)
        self.sharded = True
        self._note_start()

    def rest(self, folder: Path, least: int | None = None) -> None:
        """Leaves large weights on disk until they are used, so that they take no memory in training steps.

        The file in `folder` has no name any more once it is mapped, and goes with the process. On the CPU the weights are read
        from it when a measurement uses them, and the system may drop them again at any time; `to` copies them to other devices.
        Where nothing can be written, they stay in memory. So do fewer than `least` bytes, by default LARGE.

        Raises:
            RuntimeError: The file does not hold the same weights.
        """
        weights = dict(self._tensors())
        if self.sharded or sum(t.numel() * t.element_size() for t in weights.values()) < (
            LARGE if least is None else least
        ):
            return
        if not self._on_disk:
            before = weights_hash(weights)
            try:
                with tempfile.NamedTemporaryFile(dir=folder, prefix=".teacher-") as file:
                    torch.save({n: t.cpu() for n, t in weights.items()}, file)
                    file.flush()
                    self._on_disk = torch.load(file.name, mmap=True, weights_only=True)
            except (OSError, RuntimeError):  # torch raises the latter on a full disk
                return
            if weights_hash(self._on_disk) != before:
                raise RuntimeError(f"the teacher's weights changed on their way to {folder}")
        for name, tensor in weights.items():
            tensor.data = self._on_disk[name]
        self._note_start()

    @property
    def rests(self) -> bool:
        """Whether its weights were left on disk, in the device and precision of that time."""
        return bool(self._on_disk)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Its parameters and buffers, by name."""
        yield from self.network.named_parameters()
        yield from self.network.named_buffers()

    def _note_start(self) -> None:
        self.initial = {n: p.data for n, p in self.network.named_parameters() if n in self.initial}

    @torch.no_grad()
    def __call__(self, x: dict[str, Tensor], select: Tensor | None = None) -> Output:
        """The pretrained network's output, under the caller's autocast.

        A study's worker caches outputs over all its runs. The key is the batch's content, so other views are other batches,
        and a cached output equals a computed one to the bit.
        """
        output: Output
        if cache.TEACHER.on and not self.sharded and all(t.device.type == "cpu" for t in x.values()):
            asked = x if select is None else {**x, "select": select}
            output = cache.TEACHER.get(self._key(asked), lambda: self.network(x, select), lambda output: output.bytes)
        else:
            output = self.network(x, select)
        return output

    @property
    def identity(self) -> tuple[str, str]:
        """The network's specification, and the hash of all its weights."""
        if not self._whole[1]:
            self._whole = (self._whole[0], weights_hash(self.network.state_dict()))
        return self._whole

    def _key(self, x: dict[str, Tensor]) -> tuple[object, ...]:
        """The cache key: all that the output depends on, and whether it comes from inference mode."""
        cast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        digest = blake2b(digest_size=16)
        for name, tensor in sorted(x.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {tensor.stride()} ".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
        dtype = next(self.network.parameters()).dtype
        return *self.identity, dtype, cast, torch.is_inference_mode_enabled(), digest.digest()

    def initial_weights(self, names: list[str]) -> list[Tensor]:
        """w_S⁰ of the named parameters."""
        return [self.initial[n] for n in names]
