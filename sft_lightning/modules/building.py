"""How a module builds its network and teacher for the task that the data has, and lets data and network settle."""

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
from sft_lightning.networks.base import Network, build_network
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
        """Learns from the data what is predicted, builds the network for it, and lets them agree how samples come."""
        data = getattr(self._trainer, "datamodule", None) if self._trainer is not None else None
        told: TaskInfo | None = getattr(data, "task_info", None)
        if self.info is None:
            if told is None:
                raise UserError("task", "not known", "give a data module of sft_lightning, or task= to the module")
            self.info = told
        elif told is not None and (told.name, told.num_outputs or self.info.num_outputs) != (
            self.info.name,
            self.info.num_outputs,
        ):
            raise UserError(
                "network",
                f"is for {self.info.name} with {self.info.num_outputs} outputs, the data for {told.name} with "
                f"{told.num_outputs}",
            )
        elif told is not None and told.labels and self.info.labels and told.labels != self.info.labels:
            raise UserError("network", f"is for the classes {self.info.labels}, the data has {told.labels}")
        self.configure_model()
        if stage == "fit":
            self.trainable.reset()
        if data is not None and hasattr(data, "settle"):
            assert self.network is not None
            self.network.settle(data.settle(self.network.wanted_input()))

    def configure_model(self) -> None:
        """Builds network and teacher, once, from the pretrained source: before any checkpoint is restored."""
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
            raise UserError("model.compile", "not with trainer.strategy fsdp2", "set compile false")
        with strategy.in_turn():
            network = self.network or self._build()
            drawn = weights_hash(network.new_parameters() | network.adapter_parameters())
            start = (self.teacher.hash if self.teacher else "") + drawn
            shard(network, strategy.mesh, strategy.precision)
            share_statistics(network)
            if self.teacher is not None:
                self.teacher.shard(strategy.mesh, strategy.precision)
        strategy.check_same(start)

    def _build(self) -> Network:
        assert self.info is not None
        network = build_network(self.hparams["network"], self.info)
        self.info = network.task  # a language model knows its number of outputs, the data (0) does not
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
        """Raises UserError where the variant cannot work with the network."""

    def make_meters(self) -> None:
        """One set of metrics per stage, so that validation inside fit never mixes with testing."""
        assert self.task is not None
        for stage in ("val", "test"):
            meters: dict[str, Metric] = {"loss": MeanLoss(), **self.task.make_metrics()}
            self.meters[f"{stage}_meters"] = nn.ModuleDict(meters)

    @abstractmethod
    def _follow(self, change: Change) -> None:
        """What follows a change of the trainable set."""

    # ---- what network and teacher say ----

    def forward(self, x: dict[str, Tensor], select: Tensor | None = None) -> Output:
        """The network's output for prepared inputs `x`, on the rows that `select` marks."""
        assert self.network is not None
        output: Output = self.network(x, select)
        return output

    def output(self, batch: Batch) -> Output:
        """The network's output on a batch, as its task wants it."""
        assert self.task is not None
        output: Output = self(batch["x"], self.task.select(batch))
        return output

    def teacher_output(self, batch: Batch) -> Output:
        """What the pretrained network says of the same rows of the same batch, without gradient."""
        assert self.teacher is not None and self.task is not None
        return self.teacher(batch["x"], self.task.select(batch))

    def train(self, mode: bool = True) -> "BuiltModule":
        """Train mode, except for normalisation statistics that stand still, and for a pretrained encoder that is frozen
        whole: a linear probe sees the features as they are, without dropout.
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
        """Puts the teacher on the student's device, in its precision."""
        if self.teacher is not None:
            self.teacher.to(self.device, next(iter(self.parameters())).dtype)
