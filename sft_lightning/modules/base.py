"""The training skeleton of all variants. A variant adds one method: the anchor's terms, or the penalty on weights."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import DoublePrecision
from torch import Tensor, nn

from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.registry import Registry, refuse_renamed
from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules.measuring import MeasuredModule
from sft_lightning.modules.same_checkpoint import check_same
from sft_lightning.modules.teacher import Teacher
from sft_lightning.modules.trainable import TrainableSet
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import Spec
from sft_lightning.networks.transforms import settings_of
from sft_lightning.tasks import Task

if TYPE_CHECKING:
    from sft_lightning.evaluation.source_data import SourceData

CHECKPOINT_KEY = "sft_lightning"
TRAINABLE_KEY = "trainable"
ENDS_KEY = "ends"
"""Tokens that end the training answers of a language model"""
AVERAGE = ("ema_decay", "ema_warmup")
LARGEST = 1e30  # largest factor on weights that single precision can take
OFTEN = frozenset({"_current_fx_name", "_sums", "_items", "stepped"})
"""Attributes that are set many times in a step, by Lightning or here, and hold no parameter, buffer or module"""


VARIANTS: Registry["SFTModule"] = Registry("variant")
RENAMED = {
    "anchor": "anchor_loss",
    "add_penalty": "add_penalty_grad",
    "penalty": "penalty_value",
    "undecayed": "no_decay_names",
}
"""Old and new names of variants' methods: a variant for an earlier version is refused"""


class SFTModule(MeasuredModule):
    """Supervised fine-tuning: everything but the anchor.

    The loss of an optimizer step is (sum of the task's loss + sum of the anchor) / number of items, over all its
    micro-batches and ranks, so that it does not depend on how the work is split.

    Args:
        network: The network, as class_path and init_args (`spec(MLP, ...)` in Python).
        task: What is predicted (name, num_outputs, labels); follows from the data when not given.
        optimizer: Name of an optimizer of torch.optim, or a dotted path.
        lr: Learning rate of the encoder's top layer, per optimizer step.
        weight_decay: The optimizer's weight decay; biases and norms have none.
        optimizer_args: The optimizer's other arguments, such as momentum or betas.
        lr_schedule: How the learning rate falls after warm-up, to 0 after the last step: not at all, linearly, or as a cosine.
        warmup: Linear warm-up: a share of all optimizer steps if below 1, else a number of steps.
        head_lr_factor: Learning rate of the head and other layers that pretrained did not fill, as a multiple of `lr`.
        layer_decay: Learning rate of each pretrained layer, as a multiple of that of the layer above it.
        freeze: Which parameters are frozen: all-but-head (all that pretrained filled), {bottom_layers: n}, or a list of
            regular expressions on parameter names.
        head_warmup: At the start, train new layers alone and freeze the rest: for a share of all optimizer steps if below 1,
            else for a number of steps.
        freeze_batchnorm_stats: Keep all BatchNorm running statistics as pretrained.
        label_smoothing: Share of each label spread evenly over the classes.
        ema_decay: Decay per optimizer step of an exponential moving average of weights, with which the run validates, tests
            and exports; null for none.
        ema_warmup: Begin the average with a smaller decay, (1 + t)/(10 + t) after t optimizer steps, until it reaches
            ema_decay.
        compile: Compile the network with torch.compile.
    """

    fidelity: str = "safe default"
    """How close to the published method, as configured: 'paper-exact', 'reference-code' or 'safe default'."""
    anchor_settings: ClassVar[tuple[str, ...]] = ()
    """Names of the arguments that define the anchor, in which a resumed checkpoint must agree."""
    solves: ClassVar[bool] = False
    """Whether the variant solves for weights before the first step instead of training them."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_renamed(cls, RENAMED)
        VARIANTS.add_class(cls)

    def __init__(
        self,
        network: Spec | str,
        task: dict[str, Any] | None = None,
        optimizer: str = "AdamW",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        optimizer_args: dict[str, Any] | None = None,
        lr_schedule: Literal["constant", "linear", "cosine"] = "constant",
        warmup: float = 0.0,
        head_lr_factor: float = 1.0,
        layer_decay: float = 1.0,
        freeze: str | list[str] | dict[str, Any] | None = None,
        head_warmup: float = 0.0,
        freeze_batchnorm_stats: bool = False,
        label_smoothing: float = 0.0,
        ema_decay: float | None = None,
        ema_warmup: bool = True,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if isinstance(network, str):
            network = {"class_path": network, "init_args": {}}
        self.hparams["network"] = dict(network)
        self.network: Network | None = None
        self.trainable: TrainableSet
        """Which parameters are trained; exists once the network does"""
        self._teacher: list[Teacher] = []  # in a list, so that nn.Module does not register it
        self.info: TaskInfo | None = TaskInfo.of(task) if task else None
        self.task: Task | None = None  # for metrics
        self.objective: Task  # for training, with label smoothing
        self.meters = nn.ModuleDict()
        self._sums: Tensor | None = None  # task's loss and anchor of the optimizer step so far, on the device
        self._items: float = 0
        self.stepped: tuple[Tensor, Tensor, float] | None = None
        """(task's loss and anchor summed over the last optimizer step, the same for this rank alone, number of items)"""
        self.select_by: str | None = None
        """The metric that chooses best.ckpt; None for the task's first"""
        self.found: dict[str, Any] = {}
        """The result of a variant that solves, as plain values for the record"""
        self.resolved: dict[str, Any] = {}  # final values of anchor settings whose default depends on others
        self.source: SourceData | None = None
        """The source task's data, set at the start of a fit that has some"""
        self._held_steps = 0  # steps at the start in which new layers train alone
        self._alone: frozenset[str] = frozenset()  # parameters of these new layers
        for name in ("lr", "weight_decay", "head_lr_factor", "layer_decay", "head_warmup"):
            if not self.hparams[name] >= 0:
                raise UserError(f"model.{name}", f"must not be negative, got {self.hparams[name]}")
            if self.hparams[name] > LARGEST:
                raise UserError(f"model.{name}", f"must be at most {LARGEST:g}, got {self.hparams[name]}")
        check_choice("lr_schedule", lr_schedule, ("constant", "linear", "cosine"))
        if not 0.0 <= label_smoothing < 1.0:
            raise UserError("model.label_smoothing", f"must be in [0, 1), got {label_smoothing}")
        if ema_decay is not None and not 0.0 <= ema_decay < 1.0:
            raise UserError("model.ema_decay", f"must be in [0, 1), got {ema_decay}")
        if ema_decay is None and not ema_warmup:
            raise UserError(
                "model.ema_warmup",
                "false has no effect, because ema_decay is not set",
                "set model.init_args.ema_decay, or leave it out",
            )

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; those of `OFTEN` without nn.Module's slow search for parameters."""
        if name in OFTEN:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def configure_callbacks(self) -> list[Callback]:
        """Adds the callbacks of every run, such as the measurement of drift, and the average of weights if it is set."""
        from sft_lightning.callbacks import (
            EMA,
            FiniteLoss,
            Lean,
            Position,
            RandomState,
            RetentionMonitor,
            StepMemory,
            Steps,
        )
        from sft_lightning.callbacks.monitored import refuse_wrong_modes
        from sft_lightning.callbacks.of_lightning import refuse_callbacks

        given = getattr(self.trainer, "callbacks", [])
        if self.trainer.state.fn == "fit":
            refuse_callbacks(map(type, given))
            refuse_wrong_modes(given)
        have = {type(c) for c in given}
        callbacks: list[Callback] = [] if RetentionMonitor in have else [RetentionMonitor()]
        if self.hparams["ema_decay"] is not None and EMA not in have:
            callbacks.append(EMA(self.hparams["ema_decay"], self.hparams["ema_warmup"]))
        callbacks += [
            kind() for kind in (FiniteLoss, RandomState, Position, Steps, StepMemory, Lean) if kind not in have
        ]
        return callbacks

    # ---- checkpoints ----

    def checkpoint_metadata(self) -> dict[str, Any]:
        """Plain values in which a checkpoint must agree to be resumed."""
        return {
            "variant": type(self).__name__,
            "anchor": {k: self.resolved.get(k, self.hparams[k]) for k in (*self.anchor_settings, *AVERAGE)},
            "teacher": self.teacher.hash if self.teacher else None,
            "network": str(self.hparams["network"]["class_path"]).rpartition(".")[2],
            "transforms": settings_of(self.network.applied) if self.network is not None else None,
            "task": self.info.to_dict() if self.info else None,
            "found": self.found,
        }

    @property
    def hparams_initial(self) -> AttributeDict:
        """Hyperparameters for loggers, without secrets."""
        return AttributeDict(redaction.without(dict(super().hparams_initial)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = self.checkpoint_metadata()
        checkpoint[TRAINABLE_KEY] = self.trainable.state()
        if self.network is not None and self.network.input_view.ends is not None:
            checkpoint[ENDS_KEY] = list(self.network.input_view.ends)
        for key in ("hyper_parameters", "datamodule_hyper_parameters"):
            if key in checkpoint:
                checkpoint[key] = redaction.without(checkpoint[key])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another variant, with another anchor, or from another pretrained network."""
        check_same(checkpoint.get(CHECKPOINT_KEY), self.checkpoint_metadata())
        self.found = checkpoint[CHECKPOINT_KEY].get("found", {})
        if self.network is not None and self.network.input_view.ends is None and ENDS_KEY in checkpoint:
            # Data to predict on has no answers whose ends could be seen.
            self.network.input_view = replace(self.network.input_view, ends=tuple(checkpoint[ENDS_KEY]))
        if self._trainer is not None and isinstance(self.trainer.precision_plugin, DoublePrecision):
            self.double()  # Lightning does it after loading, when single precision has rounded the weights
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self.trainable.load(checkpoint.get(TRAINABLE_KEY))


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises UserError unless the argument `name` is one of `choices`, because in Python no parser checks it."""
    if value not in choices:
        raise UserError(
            f"model.{name}", f"must be one of {', '.join(choices)}, got '{value}'{nearest(str(value), choices)}"
        )
