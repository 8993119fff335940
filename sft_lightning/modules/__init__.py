"""Ways of fine-tuning: one LightningModule per file, each a variant of the skeleton in base.py."""

from sft_lightning.core.registry import discover
from sft_lightning.modules.base import VARIANTS, SFTModule
from sft_lightning.modules.distill import DistillSFT
from sft_lightning.modules.ewc import EWCSFT
from sft_lightning.modules.l2sp import L2SPSFT
from sft_lightning.modules.linear_probe import LinearProbe
from sft_lightning.modules.plain import PlainSFT

__all__ = ["EWCSFT", "L2SPSFT", "DistillSFT", "LinearProbe", "PlainSFT", "SFTModule"]

discover(__name__)


def __getattr__(name: str) -> type[SFTModule]:
    """Finds classes that a file of this package defines and that the imports above do not list."""
    if name in VARIANTS:
        return VARIANTS[name]
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
