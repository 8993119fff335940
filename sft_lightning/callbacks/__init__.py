"""What changes how a run trains, or watches it, without changing what it minimises."""

from sft_lightning.callbacks.ema import EMA
from sft_lightning.callbacks.retention import RetentionMonitor

__all__ = ["EMA", "RetentionMonitor"]
