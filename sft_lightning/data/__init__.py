"""Data sets: LightningDataModules that subset, split and batch the same way for every variant."""

from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.text import GLUE, IMDB, TREC, AGNews, Instructions, TextTable
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
    "SFTDataModule",
    "TextTable",
]
