"""Data sets: LightningDataModules that subset, split and batch the same way for every variant."""

from sft_lightning.core.registry import discover
from sft_lightning.data.base import DATA_MODULES, SFTDataModule
from sft_lightning.data.text import GLUE, IMDB, TREC, AGNews, Instructions, PlainText, TextTable
from sft_lightning.data.vision import (
    CIFAR10,
    CIFAR100,
    MNIST,
    ColouredDigits,
    Digits,
    FashionMNIST,
    HubImages,
    ImageFolder,
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "GLUE",
    "IMDB",
    "MNIST",
    "TREC",
    "AGNews",
    "ColouredDigits",
    "Digits",
    "FashionMNIST",
    "HubImages",
    "ImageFolder",
    "Instructions",
    "PlainText",
    "SFTDataModule",
    "TextTable",
]

discover(__name__)


def __getattr__(name: str) -> type[SFTDataModule]:
    """Finds a class that a file of this package registers and that is not listed above."""
    if name in DATA_MODULES:
        return DATA_MODULES[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
