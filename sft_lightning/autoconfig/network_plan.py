"""What is known of a network before its weights are loaded: the block of a config, and what it holds."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sft_lightning.networks.base import source_task_name

FAMILIES = {
    "small": "a small net",
    "convolutional": "a convolutional network",
    "transformer": "a transformer",
    "language model": "a language model",
}


@dataclass
class NetworkPlan:
    """Network blocks by what they are fed, and what is known of the network without its weights."""

    name: str
    blocks: dict[str, dict[str, Any]]
    """'image', 'text' or 'tokens': the `network:` of a config"""
    family: str
    """One of FAMILIES"""
    source_outputs: int | None = None
    """Outputs of the source head that is kept; None where there is none"""
    source_labels: list[str] = field(default_factory=list)
    """The source head's classes, where they are known"""
    source_task: str | None = None
    """Name of the source head's task, where the network's files say it; see `source_task_name`"""
    batchnorm: bool = False
    max_length: int | None = None
    """Most tokens it takes; None where not known"""
    image_size: int | None = None
    """What the data must be set to, in pixels; None where the network says"""
    any_size: bool = False
    """Whether it takes images of any size"""
    channels: int | None = None
    blocks_above: int | None = None
    """Numbered blocks of a language model"""
    why: str = ""

    @property
    def source_gives_values(self) -> bool:
        """Whether the source head gives values, as of a regression, a reranker or a reward model: they do not agree."""
        return (
            self.source_outputs is not None and source_task_name(self.source_task, self.source_outputs) == "regression"
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self.blocks)

    @property
    def said(self) -> str:
        """`resnet18 (Timm)`."""
        return f"{self.name} ({' or '.join(dict.fromkeys(b['class_path'].rpartition('.')[2] for b in self.blocks.values()))})"


def block(class_path: str, **init_args: Any) -> dict[str, Any]:
    """A network as plain values, without those that are None."""
    return {"class_path": class_path, "init_args": {n: v for n, v in init_args.items() if v is not None}}


@contextmanager
def network_errors(subject: str) -> Iterator[None]:
    """Turns what transformers and the hub raise into a UserError at --network whose problem begins with `subject`."""
    from sft_lightning.networks.hf import user_errors

    with user_errors("--network", subject, "sft_lightning"):
        yield
