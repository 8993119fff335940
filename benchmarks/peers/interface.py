"""What the checks ask of a peer, and what it answers. Parameters have the names of the transformers model throughout."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

BATCH = 16
"""Samples per optimizer step, over all micro-batches and processes"""
STEPS = 4
"""Optimizer steps of an arm: one epoch of three, and the first step of the next"""
RATES = {"SGD": 0.02, "AdamW": 1e-3}
EVAL_BATCH = 4
"""Samples per process and batch of an evaluation"""
WEIGHT, TEMPERATURE = 0.5, 2.0
"""Of the distillation: loss + WEIGHT · T² KL(teacher ‖ student) per token"""
ALPHA = 0.1
"""Of L2-SP: loss + ALPHA/2 ‖w − w⁰‖² over parameters of two dimensions and more"""
LABELS = 3


@dataclass(frozen=True)
class Arm:
    """One way of doing the same training."""

    task: str
    """'classification' (tiny BERT) or 'causal_lm' (tiny Llama)"""
    rows: int
    """Training samples: 48 make full windows, 37 leave a ragged one of 5"""
    setting: str = "default"
    """Which of the peer's settings; the peer knows what it means"""
    loss: str = "plain"
    """'plain', 'distill' or 'l2sp'"""
    accumulate: int = 1
    processes: int = 1
    dtype: str = "float64"
    optimizer: str = "SGD"
    seed: int = 0

    @property
    def micro(self) -> int:
        """Samples per process and micro-batch."""
        return BATCH // (self.accumulate * self.processes)

    def __str__(self) -> str:
        return f"accumulate {self.accumulate}, {self.optimizer}"


Weights = dict[str, Tensor]


@dataclass
class Trained:
    """What one process saw of a training."""

    start: Weights
    rows: list[list[int]] = field(default_factory=list)
    """Of each optimizer step, the samples this process took"""
    grads: list[Weights] = field(default_factory=list)
    """Of each optimizer step, what the optimizer saw"""
    weights: list[Weights] = field(default_factory=list)
    """After each optimizer step"""


@dataclass
class Measured:
    """What one process says of an evaluation."""

    loss: float
    metrics: dict[str, float]
    rows: list[int]
    """The samples whose predictions counted, as this process knows them: its own, or all"""


class Peer(Protocol):
    """A trainer under test. `files` says where models and data are (see tiny_tasks)."""

    name: str
    gathers: bool
    """Whether each process's `Measured.rows` holds all processes' samples"""
    SETTINGS: dict[str, list[str]]
    """Settings to try, by family of checks. 'default' goes first; those after it are tried where it fails. Where there
    is no default, all are tried: they are the ways in which users write the loss."""

    def why(self, family: str, setting: str, arm: Arm) -> str:
        """What is known about a failure: a documented contract, an issue; '' for nothing."""

    def versions(self) -> dict[str, str]:
        """Of the packages that matter."""

    def train(self, arm: Arm, files: Any) -> Trained:
        """Trains STEPS optimizer steps without clipping."""

    def evaluate(self, arm: Arm, files: Any) -> Measured:
        """Loss and metrics on `arm.rows` samples with the weights of the folder."""

    def seeded(self, setting: str, seed: int, files: Any) -> Trained:
        """A training that begins with a new head."""

    def stoppable(self, how: "Stoppable", files: Any) -> Weights:
        """A training with dropout, a whole one, or its first or second part."""


@dataclass(frozen=True)
class Stoppable:
    """Three epochs of five steps of eight samples, dropout on."""

    folder: str
    """Where the run keeps what it needs to go on"""
    stop: int
    """The optimizer step at which a run that is stopped stops"""
    part: str
    """'whole', 'first' (killed at `stop`) or 'second' (goes on from there)"""
    accumulate: int = 1
    workers: int = 0
    setting: str = "default"

    rows: int = 37
    batch: int = 8
    epochs: int = 3


def copied(named: Any) -> Weights:
    """Clones of named tensors."""
    return {n: t.detach().clone() for n, t in named if isinstance(t, torch.Tensor)}
