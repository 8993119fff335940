"""What an arm is given to work on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.bench import peer_data, reference
from benchmarks.bench.gate import Gate
from benchmarks.bench.workload import Prepared, Workload

FOREVER = 1_000_000
"""Epochs: the gate ends each fit"""


@dataclass
class Job:
    """One arm of one workload. An arm fits twice: a check of a few steps in a fixed order, then turns."""

    name: str
    workload: Workload
    prepared: Prepared
    gate: Gate
    folder: Path
    """For the arm's own files"""
    check: bool = True
    """Whether this fit is the check: the prepared order, no augmentation"""

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def lr(self) -> float:
        """Learning rate of this fit."""
        return self.workload.check_lr or self.workload.lr if self.check else self.workload.lr

    @property
    def accelerator(self) -> str:
        """Lightning's name for it."""
        return "gpu" if self.device.type == "cuda" else "cpu"

    def model(self) -> nn.Module:
        """The reference network; its loss on the fixed batch is what the check compares."""
        model = reference.build(self.workload, self.prepared)
        self.gate.probe = reference.probe_of(model, peer_data.probe_batch(self.workload, self.prepared))
        return model

    def loader(self) -> DataLoader[Any]:
        return peer_data.loader_of(self.workload, self.prepared, self.check)
