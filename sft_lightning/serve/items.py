"""One sample that is to be answered, and the base of readers, which turn samples into batches as in `predict`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, TaskInfo
from sft_lightning.networks.base import Network

LEAST_SHARE = 1 / 256
"""Smallest part of a batch's usual size that is tried where memory is short"""


@dataclass(frozen=True)
class Item:
    """One sample: a text, perhaps with a second one, a list of words, named fields, or an encoded image or sound."""

    name: str
    """Its name in messages, such as `texts[0]`"""
    text: str | None = None
    pair: str | None = None
    words: tuple[str, ...] | None = None
    row: Mapping[str, Any] | None = None
    """Fields of samples with several parts, such as question and context"""
    image: bytes | None = None
    sound: bytes | None = None


Finish = Callable[[int, dict[str, Any], TaskInfo], dict[str, Any]]
"""Adds to a prediction what only the samples know; takes the place in the batch, the prediction and the head's task"""


@dataclass
class Prepared:
    """A batch of some of the items."""

    at: list[int]
    """The items' numbers"""
    batch: Batch
    finish: Finish = field(default=lambda at, prediction, task: prediction)
    truncated: Sequence[bool] = ()


Found = Iterator[Prepared | tuple[int, UserError]]
"""Batches, and the numbers of items that cannot be read, with the reasons"""


class Reader(ABC):
    """Turns items into batches, as the data module of the run does. Batches have at most a fixed amount of input.

    Args:
        network: The network.
        arguments: Arguments of the data that it was tuned on.
        device: Where it computes.
    """

    kind: ClassVar[str]
    """`InputSpec.kind` of its networks"""
    takes: ClassVar[str]
    """Name of the field of a request: texts, images or sounds"""
    fields: ClassVar[tuple[str, ...]] = ()
    """What a sample may have, if it is an object"""
    unsized: bool = False
    """Whether samples keep a size of their own that the network may refuse"""
    share = 1.0
    """Part of a batch's usual size"""
    limited: bool = True
    """Whether texts that are longer than a batch's usual size are refused; a service refuses them"""

    @abstractmethod
    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None: ...

    @abstractmethod
    def check(self, item: Item) -> None:
        """Raises UserError for an item of the wrong form, before it waits in the queue."""

    @abstractmethod
    def batches(self, items: Sequence[Item]) -> Found:
        """The items in batches that fit into memory, in any order."""

    @abstractmethod
    def example(self) -> Item:
        """An item for the first pass."""

    def shrink(self) -> bool:
        """Makes later batches half as large. Returns False if they are small already."""
        self.share /= 2
        return self.share >= LEAST_SHARE
