"""Builds a module's network and teacher for the data's task, and lets data and network agree on the input."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torchmetrics import Metric

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output, TaskInfo
from sft_lightning.modules.freeze import apply_freeze, evaluate_frozen, still_batchnorms
from sft_lightning.modules.teacher import Teacher
from sft_lightning.modules.trainable import Change, TrainableSet
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import build_network
from sft_lightning.networks.tensors import weights_hash
from sft_lightning.networks.transforms import apply_transforms, without_transforms
from sft_lightning.sharding.split import shard, share_statistics
from sft_lightning.sharding.strategy import FSDP2, check_strategy
from sft_lightning.sharding.tensors import is_sharded
from sft_lightning.tasks import Task, make_task
from sft_lightning.tasks.metrics import MeanLoss


class BuiltModule(TunedModule):
    """A module with a network, its teacher and its trainable set, built once the task is known."""

    needs_pretrained: ClassVar[bool] = False
    _teacher: list[Teacher]
    objective: Task
    meters: nn.ModuleDict

    # ---- building ----

    def setup(self, stage: str) -> None:
        """Takes the task from the data, builds the network for it, and lets both agree on the input's form."""
        data = getattr(self._trainer, "datamodule", None) if self._trainer is not None else None
        told: TaskInfo | None = getattr(data, "task_info", None)
        if self.info is None:
            if told is None:
                raise UserError(
                    "task",
                    "the data do not define it",
                    "use a data module of sft_lightning, or give task= to the module",
                )
            self.info = told
        elif told is not None and (told.name, told.num_outputs or self.info.num_outputs) != (
            self.info.name,
            self.info.num_outputs,
        ):
            raise UserError(
                "network",
                f"is for {self.info.name} with {self.info.num_outputs} outputs, and the data are for {told.name} with "
                f"{told.num_outputs}",
                "choose other data, or build a new module for these",
            )
        elif told is not None and told.labels and self.info.labels and told.labels != self.info.labels:
            raise UserError(
                "network",
                f"is for the classes {self.info.labels}, and the data have {told.labels}",
                "choose other data, or build a new module for these",
            )
        self.configure_model()
        if stage == "fit":
            self.trainable.reset()
        if data is not None and hasattr(data, "settle"):
            assert self.network is not None
            self.network.settle(data.settle(self.network.wanted_input()))

    def configure_model(self) -> None:
        """Builds network and teacher once, from the pretrained weights, before Lightning restores a checkpoint."""
        strategy = self._trainer.strategy if self._trainer is not None else None
        check_strategy(strategy)
        if self.info is None:
            return
        if isinstance(strategy, FSDP2):
            self._build_in_parts(strategy)
        elif self.network is None:
            self._build()

    def _build_in_parts(self, strategy: FSDP2) -> None:
        if self.network is not None and any(map(is_sharded, self.network.parameters())):
            return
        if self.hparams["compile"]:
            raise UserError("model.compile", "does not work with trainer.strategy fsdp2", "set it to false")
        with strategy.in_turn():
            network = self.network or self._build()
            drawn = weights_hash(network.new_parameters() | network.adapter_parameters())
            start = (self.teacher.hash if self.teacher else "") + drawn
            shard(network, strategy.mesh, strategy.precision)
            share_statistics(network)
            if self.teacher is not None:
                self.teacher.shard(strategy.mesh, strategy.precision)
        strategy.check_same(start)
        if not network.works_in_parts:  # here, because all ranks must come out of their turns
            raise UserError("trainer.strategy", f"fsdp2 does not work with {network.name}", "use ddp")

    def _build(self) -> Network:
        assert self.info is not None
        network = build_network(self.hparams["network"], self.info)
        self.info = network.task  # knows a language model's number of outputs, which is 0 in the data's task
        self.hparams["task"] = self.info.to_dict()
        self.task = make_task(self.info)
        self.objective = make_task(self.info, self.hparams["label_smoothing"])
        if self.needs_pretrained and network.pretrained is None:
            raise UserError(
                "network.pretrained", f"{type(self).__name__} needs a pretrained network", "set it, or use PlainSFT"
            )
        if network.pretrained is not None:
            self._teacher.append(Teacher(network, without_transforms(self.hparams["network"])))
        apply_transforms(network)
        self.trainable = TrainableSet(network)
        self.check_network(network)
        self.frozen = apply_freeze(self.trainable, self.hparams["freeze"])
        self.trainable.listen("module", self._follow)
        self.network = network
        self.make_meters()
        if self.hparams["compile"]:
            network.compile()
        return network

    @property
    def teacher(self) -> Teacher | None:
        """The pretrained network, frozen; None when trained from scratch."""
        return self._teacher[0] if self._teacher else None

    def check_network(self, network: Network) -> None:
        """Raises UserError if the variant cannot work with the network."""

    def make_meters(self) -> None:
        """Makes one set of metrics per stage, so that validation inside fit never mixes with testing."""
        assert self.task is not None
        for stage in ("val", "test"):
            meters: dict[str, Metric] = {"loss": MeanLoss(), **self.task.make_metrics(final=stage == "test")}
            self.meters[f"{stage}_meters"] = nn.ModuleDict(meters)

    @abstractmethod
    def _follow(self, change: Change) -> None:
        """Adapts the module to a change of the trainable set."""

    # ---- outputs of network and teacher ----

    def forward(self, x: dict[str, Tensor], select: Tensor | None = None) -> Output:
        """The network's output for prepared inputs `x`, on the rows that `select` marks."""
        assert self.network is not None
        output: Output = self.network(x, select)
        return output

    def output(self, batch: Batch) -> Output:
        """The network's output on a batch, at the positions that its task needs."""
        assert self.task is not None
        output: Output = self(batch["x"], self.task.select(batch))
        return output

    def teacher_output(self, batch: Batch) -> Output:
        """The pretrained network's output on the same rows of the same batch, without gradient."""
        assert self.teacher is not None and self.task is not None
        if self.teacher.rests:  # as between measurements, where somebody's own variant or callback may ask
            self.move_teacher()
        return self.teacher(batch["x"], self.task.select(batch))

    def train(self, mode: bool = True) -> "BuiltModule":
        """Train mode, except for frozen normalisation statistics, and for a pretrained encoder that is frozen entirely, so
        that a linear probe sees features without dropout.
        """
        super().train(mode)
        if self.network is not None:
            evaluate_frozen(self.network)
            for norm in still_batchnorms(self.network, self.hparams["freeze_batchnorm_stats"]):
                norm.eval()
        return self

    def on_validation_start(self) -> None:
        self.move_teacher()

    def on_test_start(self) -> None:
        self.move_teacher()

    def move_teacher(self) -> None:
        """Moves the teacher to the student's device and precision."""
        if self.teacher is not None:
            self.teacher.to(self.device, next(iter(self.parameters())).dtype)
