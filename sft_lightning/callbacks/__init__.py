"""Callbacks that change how a run trains, or watch it, without changing the loss that it minimises."""

from sft_lightning.callbacks.checkpoints import Checkpoints
from sft_lightning.callbacks.console import Bar, Console
from sft_lightning.callbacks.ema import EMA
from sft_lightning.callbacks.error_analysis import Details
from sft_lightning.callbacks.finite_loss import FiniteLoss
from sft_lightning.callbacks.lean import Lean
from sft_lightning.callbacks.loop_position import Position
from sft_lightning.callbacks.lpft import LPFT
from sft_lightning.callbacks.predictions import WritePredictions
from sft_lightning.callbacks.pulse import Pulse
from sft_lightning.callbacks.random_state import RandomState
from sft_lightning.callbacks.recorder import RunRecorder
from sft_lightning.callbacks.step_memory import StepMemory
from sft_lightning.callbacks.steps import Steps
from sft_lightning.callbacks.wandb_panels import Panels
from sft_lightning.evaluation.retention import RetentionMonitor

__all__ = [
    "EMA",
    "LPFT",
    "Bar",
    "Checkpoints",
    "Console",
    "Details",
    "FiniteLoss",
    "Lean",
    "Panels",
    "Position",
    "Pulse",
    "RandomState",
    "RetentionMonitor",
    "RunRecorder",
    "StepMemory",
    "Steps",
    "WritePredictions",
]
