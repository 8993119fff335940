"""What callbacks and evaluation ask of a module: the network that is tuned, its teacher, the task."""

from abc import abstractmethod
from typing import Any, ClassVar

import lightning as L
from torch import Tensor

from sft_lightning.core.structures import Batch, Output, TaskInfo
from sft_lightning.modules.teacher import Teacher
from sft_lightning.modules.trainable import TrainableSet
from sft_lightning.networks.base import Network
from sft_lightning.tasks import Task


class TunedModule(L.LightningModule):
    """The side of `SFTModule` that callbacks see. It stands below them, so that a module can bring its own callbacks."""

    fidelity: str
    """How close to the published method, as configured"""
    anchor_settings: ClassVar[tuple[str, ...]]
    """Names of the arguments that define the anchor"""
    solves: ClassVar[bool]
    """Whether weights are solved for before the first step"""
    network: Network | None
    """Built once the task is known"""
    info: TaskInfo | None
    task: Task | None
    """As measured: without label smoothing"""
    trainable: TrainableSet
    """Which parameters are trained now"""
    stepped: tuple[Tensor, Tensor, int] | None
    """(task's loss and anchor summed over the last optimizer step, the same of this rank alone, number of items)"""
    select_by: str | None
    """The metric that chooses best.ckpt; None for the task's first"""
    found: dict[str, Any]
    """What a variant that solves has found, as plain values for the record"""

    @property
    @abstractmethod
    def teacher(self) -> Teacher | None:
        """The pretrained network, frozen; None when trained from scratch."""

    @abstractmethod
    def teacher_output(self, batch: Batch) -> Output:
        """What the pretrained network says of the same rows of the same batch, without gradient."""

    @abstractmethod
    def prepare(self, source: Any) -> None:
        """Takes the source task's data (`SourceData`) at the start of a fit."""

    @abstractmethod
    def notes(self) -> list[str]:
        """Lines for the console on how the module came out."""

    @abstractmethod
    def said(self) -> str:
        """One line on `found`."""
