"""Data sets: LightningDataModules that subset, split and batch the same way for every variant."""

from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.vision.digits import Digits

__all__ = ["Digits", "SFTDataModule"]
