"""The classes from which users build their own data sets, for import."""

from sft_lightning.data.datamodule import DATA_MODULES, SFTDataModule
from sft_lightning.data.fingerprints import tensor_digest
from sft_lightning.data.samples import Samples, Splits
from sft_lightning.data.split import Split

__all__ = ["DATA_MODULES", "SFTDataModule", "Samples", "Split", "Splits", "tensor_digest"]
