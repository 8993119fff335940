"""The base of export formats. A format is one file in this folder, and is registered by being defined."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from sft_lightning.core.registry import Registry
from sft_lightning.export.tuned import Tuned
from sft_lightning.networks.base import Network

FORMATS: Registry["Format"] = Registry("format", key="--format")
NEW, SOURCE = "new", "source"


class Format(ABC):
    """A kind of folder that another library loads. The folder holds everything that this library needs."""

    name: ClassVar[str]
    """As on the command line, and in `elsewhere/libraries.py`"""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        FORMATS.add(cls.name, cls)

    @abstractmethod
    def why_not(self, network: Network) -> str:
        """Why a network cannot be exported in this format; empty if it can."""

    @abstractmethod
    def write(self, tuned: Tuned, folder: Path, heads: tuple[str, ...], adapters: bool) -> None:
        """Writes the folder, which is there and empty.

        Args:
            tuned: The run.
            folder: Where to write.
            heads: 'new', and perhaps 'source'.
            adapters: Whether the adapter alone is written too, in `adapter/`.
        """

    @abstractmethod
    def usage(self, tuned: Tuned, heads: tuple[str, ...]) -> str:
        """How to load the folder and call each head, as Markdown with Python that runs in the folder."""


def default_format(network: Network) -> str:
    """The format of the library that the network is from, if it can hold the network; else our own."""
    own = network.library
    return own if own in FORMATS and not FORMATS[own]().why_not(network) else "safetensors"
