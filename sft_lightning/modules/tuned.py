"""The interface of modules for callbacks and evaluation: the tuned network, its teacher, the task."""

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
    """The part of `SFTModule` that callbacks use. Callbacks import it, so that a module can import its callbacks."""

    fidelity: str
    """How close to the published method, as configured"""
    anchor_settings: ClassVar[tuple[str, ...]]
    """Names of the arguments that define the anchor"""
    solves: ClassVar[bool]
    """Whether the variant solves for weights before the first step"""
    network: Network | None
    """Built once the task is known"""
    info: TaskInfo | None
    task: Task | None
    """The task for metrics, without label smoothing"""
    trainable: TrainableSet
    """Which parameters are trained now"""
    stepped: tuple[Tensor, Tensor, float] | None
    """(task's loss and anchor summed over the last optimizer step, the same for this rank alone, number of items)"""
    select_by: str | None
    """The metric that chooses best.ckpt; None for the task's first"""
    found: dict[str, Any]
    """The result of a variant that solves, as plain values for the record"""

    @property
    @abstractmethod
    def teacher(self) -> Teacher | None:
        """The pretrained network, frozen; None when trained from scratch."""

    @abstractmethod
    def teacher_output(self, batch: Batch) -> Output:
        """The pretrained network's output on the same rows of the same batch, without gradient."""

    @property
    @abstractmethod
    def changes_steps(self) -> bool:
        """Whether the variant may need the teacher in each step."""

    @abstractmethod
    def kept_tensors(self) -> list[Tensor]:
        """Tensors of the variant's own that it keeps from step to step, beside network and teacher."""

    @abstractmethod
    def prepare(self, source: Any) -> None:
        """Gets the source task's data (`SourceData`) at the start of a fit."""

    @abstractmethod
    def notes(self) -> list[str]:
        """Notes on the module for the console, one line each."""

    @abstractmethod
    def said(self) -> str:
        """One line on `found`."""
