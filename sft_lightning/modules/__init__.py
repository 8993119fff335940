"""Ways of fine-tuning: one LightningModule per file, all on the skeleton in base.py."""

from sft_lightning.modules.base import SFTModule
from sft_lightning.modules.distill import DistillSFT
from sft_lightning.modules.l2sp import L2SPSFT
from sft_lightning.modules.linear_probe import LinearProbe
from sft_lightning.modules.plain import PlainSFT

__all__ = ["L2SPSFT", "DistillSFT", "LinearProbe", "PlainSFT", "SFTModule"]
