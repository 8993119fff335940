"""In which form a teacher's outputs are kept: all of them, those that are compared, rounded, or the largest alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sft_lightning.anchors.top_k import top_k_of
from sft_lightning.core.structures import Output

FIELDS = ("logits", "features", "source_logits", "below_new")


@dataclass(frozen=True)
class Form:
    """What is kept of an output, and what is read of it.

    Args:
        on: The tensor that is compared, as DistillSFT names it, if nothing else is read; empty for all tensors.
        dtype: Dtype to keep the compared tensor in, and no other; None to keep all as they are.
        top_k: Number of largest outputs that are kept beside the rest as one outcome; None for all of them.
        temperature: T of kl, for `top_k`.
    """

    on: str = ""
    dtype: torch.dtype | None = None
    top_k: int | None = None
    temperature: float = 1.0

    @property
    def exact(self) -> bool:
        """Whether outputs are kept as they are."""
        return self.dtype is None and self.top_k is None

    def kept(self, output: Output) -> dict[str, Tensor]:
        """An output's tensors as they are kept, by name."""
        parts = {name: part for name in FIELDS if (part := getattr(output, name)) is not None}
        if self.exact:
            return parts
        name = self.reads(parts)[0]
        if self.top_k is not None:
            return {name: top_k_of(parts[name], self.top_k, self.temperature)}
        return {name: parts[name].to(self.dtype)}

    def reads(self, parts: Mapping[str, Tensor]) -> list[str]:
        """Names of the kept tensors that are read."""
        if not self.on:
            return [name for name in FIELDS if name in parts]
        return ["below_new" if self.on == "features" and "below_new" in parts else self.on]

    def made(self, parts: Mapping[str, Tensor]) -> Output:
        """The output of kept tensors, in single precision if they were rounded."""
        if not self.on:
            return Output(parts["logits"], parts["features"], parts.get("source_logits"), parts.get("below_new"))
        only = parts[self.reads(parts)[0]]
        only = only if self.dtype is None else only.float()
        return Output(only, only, only)  # of which the one that is compared is read
