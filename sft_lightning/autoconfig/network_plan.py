"""Describes a network for the default study, before its weights are loaded: its config block, inputs and source head."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sft_lightning.networks.source_task import source_task_name

FAMILIES = {
    "small": "a small net",
    "convolutional": "a convolutional network",
    "transformer": "a transformer",
    "language model": "a language model",
    "encoder-decoder": "an encoder-decoder",
    "network of speech": "a network of speech",
}


@dataclass
class NetworkPlan:
    """Network blocks by kind of input, and properties that are known without the weights."""

    name: str
    blocks: dict[str, dict[str, Any]]
    """One of KINDS → the `network` block of a config"""
    family: str
    """One of FAMILIES"""
    source_outputs: int | None = None
    """Outputs of the kept source head; None without one"""
    source_labels: list[str] = field(default_factory=list)
    """The source head's classes; empty if unknown"""
    source_task: str | None = None
    """Name of the source head's task; None if the network's files do not have it. See `source_task_name`"""
    head_kind: str | None = None
    """Kind of input that the source head belongs to; None for all"""
    batchnorm: bool = False
    max_length: int | None = None
    """Most tokens of a text; None if unknown"""
    image_size: int | None = None
    """Image size that the data must have, in pixels; None to use the network's own"""
    any_size: bool = False
    """Whether it takes images of any size"""
    channels: int | None = None
    blocks_above: int | None = None
    """Number of a language model's blocks"""
    why: str = ""

    @property
    def source_gives_values(self) -> bool:
        """Whether the source head outputs values, as in regression, reranking or reward models; agreement is undefined then."""
        return (
            self.source_outputs is not None and source_task_name(self.source_task, self.source_outputs) == "regression"
        )

    def on(self, kind: str) -> "NetworkPlan":
        """The plan for data of one kind: without the source head if that is for another kind."""
        if self.head_kind in (None, kind):
            return self
        return replace(self, source_outputs=None, source_labels=[], source_task=None)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.blocks)

    @property
    def said(self) -> str:
        """The network's name and classes in messages: `resnet18 (Timm)`."""
        return f"{self.name} ({' or '.join(dict.fromkeys(b['class_path'].rpartition('.')[2] for b in self.blocks.values()))})"


def block(class_path: str, **init_args: Any) -> dict[str, Any]:
    """A network block of plain values; arguments that are None are left out."""
    return {"class_path": class_path, "init_args": {n: v for n, v in init_args.items() if v is not None}}


@contextmanager
def network_errors(subject: str) -> Iterator[None]:
    """Turns errors of transformers and the hub into a UserError at --network whose problem begins with `subject`."""
    from sft_lightning.networks.hf import user_errors

    with user_errors("--network", subject, "sft_lightning"):
        yield
