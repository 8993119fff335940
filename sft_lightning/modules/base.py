"""The one training skeleton. A variant adds one method: the anchor's terms, or the penalty on weights."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.registry import Registry, refuse_renamed
from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules.measuring import MeasuredModule
from sft_lightning.modules.same_checkpoint import check_same
from sft_lightning.modules.teacher import Teacher
from sft_lightning.modules.trainable import TrainableSet
from sft_lightning.networks.base import Network, Spec
from sft_lightning.networks.transforms import settings_of
from sft_lightning.tasks import Task

if TYPE_CHECKING:
    from sft_lightning.evaluation.source_data import SourceData

CHECKPOINT_KEY = "sft_lightning"
TRAINABLE_KEY = "trainable"
AVERAGE = ("ema_decay", "ema_warmup")
LARGEST = 1e30  # of what multiplies weights in single precision


VARIANTS: Registry["SFTModule"] = Registry("variant")
RENAMED = {
    "anchor": "anchor_loss",
    "add_penalty": "add_penalty_grad",
    "penalty": "penalty_value",
    "undecayed": "no_decay_names",
}
"""Methods of variants that were written for earlier versions"""


class SFTModule(MeasuredModule):
    """Supervised fine-tuning: everything but the anchor.

    The loss of an optimizer step is (sum of the task's loss + sum of the anchor) / number of items, over all its
    micro-batches and ranks, so that the split of the work does not change what is trained.

    Args:
        network: The network, as class_path and init_args (`spec(MLP, ...)` in Python).
        task: What is predicted (name, num_outputs, labels); follows from the data when not given.
        optimizer: Name of an optimizer of torch.optim, or a dotted path.
        lr: Learning rate of the encoder's top layer, per optimizer step.
        weight_decay: The optimizer's weight decay; biases and norms are spared.
        optimizer_args: The optimizer's other arguments, such as momentum or betas.
        lr_schedule: How the learning rate goes down after warm-up: not, linearly, or as a cosine, to 0 after the last step.
        warmup: Linear warm-up: a share of all optimizer steps if below 1, else a number of steps.
        head_lr_factor: Learning rate of what is new, the head and layers that pretrained did not fill, as a multiple of `lr`.
        layer_decay: Learning rate of each pretrained layer as a multiple of the layer's above it.
        freeze: What does not move: all-but-head (all that pretrained filled), {bottom_layers: n}, or a list of regular
            expressions on parameter names.
        head_warmup: Train what is new alone, the rest held still, at the start: a share of all optimizer steps if below 1,
            else a number of steps.
        freeze_batchnorm_stats: Keep all BatchNorm running statistics as pretrained.
        label_smoothing: Share of each label spread evenly over the classes.
        ema_decay: Decay per optimizer step of an exponential moving average of weights, used to validate, test and
            export; null for none.
        ema_warmup: Begin the average with a smaller decay, (1 + t)/(10 + t) after t optimizer steps, until it reaches
            ema_decay.
        compile: Compile the network with torch.compile.
    """

    fidelity: str = "safe default"
    """How close to the published method, as configured: 'paper-exact', 'reference-code' or 'safe default'."""
    anchor_settings: ClassVar[tuple[str, ...]] = ()
    """Names of the arguments that define the anchor: a resumed checkpoint must agree on them."""
    solves: ClassVar[bool] = False
    """Whether weights are solved for before the first step, so that there is nothing to train."""

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
        """Which parameters are trained; there once the network is"""
        self._teacher: list[Teacher] = []  # in a list: nn.Module must not adopt it
        self.info: TaskInfo | None = TaskInfo.of(task) if task else None
        self.task: Task | None = None  # as measured
        self.objective: Task  # as minimised: with label smoothing
        self.meters = nn.ModuleDict()
        self._sums: Tensor | None = None  # task's loss, anchor: of the optimizer step so far, on the device
        self._items = 0
        self.stepped: tuple[Tensor, Tensor, int] | None = None
        """(task's loss and anchor summed over the last optimizer step, the same of this rank alone, number of items)"""
        self.select_by: str | None = None
        """The metric that chooses best.ckpt; None for the task's first"""
        self.found: dict[str, Any] = {}
        """What a variant that solves has found, as plain values for the record"""
        self.resolved: dict[str, Any] = {}  # anchor settings whose default depends on others, as they came out
        self.source: SourceData | None = None
        """The source task's data, from the start of a fit that has some"""
        self._held_steps = 0  # at the start, in which new layers learn alone
        self._alone: frozenset[str] = frozenset()  # their parameters
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
                "model.ema_warmup", "there is no average of weights to begin", "set ema_decay, or leave it out"
            )

    def configure_callbacks(self) -> list[Callback]:
        """Drift is measured in every run, and weights averaged where asked for."""
        from sft_lightning.callbacks import EMA, FiniteLoss, Position, RandomState, RetentionMonitor, Steps
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
        callbacks += [kind() for kind in (FiniteLoss, RandomState, Position, Steps) if kind not in have]
        return callbacks

    # ---- checkpoints ----

    def checkpoint_metadata(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be resumed: plain values."""
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
        """What loggers get: without secrets."""
        return AttributeDict(redaction.without(dict(super().hparams_initial)))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[CHECKPOINT_KEY] = self.checkpoint_metadata()
        checkpoint[TRAINABLE_KEY] = self.trainable.state()
        for key in ("hyper_parameters", "datamodule_hyper_parameters"):
            if key in checkpoint:
                checkpoint[key] = redaction.without(checkpoint[key])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another variant, with another anchor, or from another pretrained network."""
        check_same(checkpoint.get(CHECKPOINT_KEY), self.checkpoint_metadata())
        self.found = checkpoint[CHECKPOINT_KEY].get("found", {})
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self.trainable.load(checkpoint.get(TRAINABLE_KEY))


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises UserError unless the argument `name` is one of `choices`: a Python script has no parser that checks it."""
    if value not in choices:
        raise UserError(f"model.{name}", f"'{value}' must be one of {', '.join(choices)}{nearest(str(value), choices)}")
