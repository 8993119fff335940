"""What changes how a run trains, or watches it, without changing what it minimises."""

from sft_lightning.callbacks.checkpoints import Checkpoints
from sft_lightning.callbacks.console import Bar, Console
from sft_lightning.callbacks.details import Details
from sft_lightning.callbacks.ema import EMA
from sft_lightning.callbacks.finite import FiniteLoss
from sft_lightning.callbacks.panels import Panels
from sft_lightning.callbacks.position import Position
from sft_lightning.callbacks.predictions import WritePredictions
from sft_lightning.callbacks.pulse import Pulse
from sft_lightning.callbacks.random_state import RandomState
from sft_lightning.callbacks.recorder import RunRecorder
from sft_lightning.callbacks.retention import RetentionMonitor
from sft_lightning.callbacks.steps import Steps

__all__ = [
    "EMA",
    "Bar",
    "Checkpoints",
    "Console",
    "Details",
    "FiniteLoss",
    "Panels",
    "Position",
    "Pulse",
    "RandomState",
    "RetentionMonitor",
    "RunRecorder",
    "Steps",
    "WritePredictions",
]
