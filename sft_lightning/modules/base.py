"""The one training skeleton. A variant adds one method: the anchor's terms, or the penalty on weights."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from lightning.fabric.utilities.data import AttributeDict
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.registry import Registry
from sft_lightning.core.structures import Batch, Output, TaskInfo
from sft_lightning.modules.freeze import apply_freeze, evaluate_frozen, still_batchnorms
from sft_lightning.modules.head_warmup import head_warmup_steps
from sft_lightning.modules.optim import follow, make_optimizer, make_scheduler, parameter_groups
from sft_lightning.modules.step_hooks import around_steps, unscales_itself
from sft_lightning.modules.teacher import Teacher
from sft_lightning.modules.trainable import Change, TrainableSet
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.networks.base import Network, Spec, build_network
from sft_lightning.networks.tensors import weights_hash
from sft_lightning.networks.transforms import apply_transforms, settings_of, without_transforms
from sft_lightning.sharding.reducer import renew_reducer
from sft_lightning.sharding.split import shard, share_statistics
from sft_lightning.sharding.strategy import FSDP2, check_strategy
from sft_lightning.sharding.tensors import is_sharded, local
from sft_lightning.tasks import Task, make_task
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters

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


class SFTModule(TunedModule):
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
    needs_pretrained: ClassVar[bool] = False
    needs_source: ClassVar[bool] = False
    """Whether a fit needs the source task's data"""
    checkpoint_keys: ClassVar[tuple[str, ...]] = ()
    """What the variant adds to a checkpoint, besides the student"""
    solves: ClassVar[bool] = False
    """Whether weights are solved for before the first step, so that there is nothing to train."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in RENAMED.keys() & vars(cls).keys():
            raise TypeError(
                f"{cls.__name__}.{name}: this method is called {RENAMED[name]} now, and would be passed over"
            )
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
                raise UserError(f"{name} must not be negative, got {self.hparams[name]}")
            if self.hparams[name] > LARGEST:
                raise UserError(f"{name} must be at most {LARGEST:g}, got {self.hparams[name]}")
        check_choice("lr_schedule", lr_schedule, ("constant", "linear", "cosine"))
        if not 0.0 <= label_smoothing < 1.0:
            raise UserError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        if ema_decay is not None and not 0.0 <= ema_decay < 1.0:
            raise UserError(f"ema_decay must be in [0, 1), got {ema_decay}")
        if ema_decay is None and not ema_warmup:
            raise UserError("ema_warmup: there is no average of weights to begin: set ema_decay, or leave it out")

    # ---- building ----

    def setup(self, stage: str) -> None:
        """Learns from the data what is predicted, builds the network for it, and lets them agree how samples come."""
        data = getattr(self._trainer, "datamodule", None) if self._trainer is not None else None
        told: TaskInfo | None = getattr(data, "task_info", None)
        if self.info is None:
            if told is None:
                raise UserError("no task: give a data module of sft_lightning, or task= to the module")
            self.info = told
        elif told is not None and (told.name, told.num_outputs or self.info.num_outputs) != (
            self.info.name,
            self.info.num_outputs,
        ):
            raise UserError(
                f"the network is for {self.info.name} with {self.info.num_outputs} outputs, "
                f"the data for {told.name} with {told.num_outputs}"
            )
        elif told is not None and told.labels and self.info.labels and told.labels != self.info.labels:
            raise UserError(f"the network is for the classes {self.info.labels}, the data has {told.labels}")
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
            raise UserError("compile: not with trainer.strategy fsdp2: set compile false")
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
                f"{type(self).__name__} needs a pretrained network: set network.init_args.pretrained, or use PlainSFT"
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

    def make_meters(self) -> None:
        """One set of metrics per stage, so that validation inside fit never mixes with testing."""
        assert self.task is not None
        for stage in ("val", "test"):
            meters: dict[str, Metric] = {"loss": MeanLoss(), **self.task.make_metrics()}
            self.meters[f"{stage}_meters"] = nn.ModuleDict(meters)

    def check_network(self, network: Network) -> None:
        """Raises UserError where the variant cannot work with the network."""

    @property
    def teacher(self) -> Teacher | None:
        """The pretrained network, frozen; None when trained from scratch."""
        return self._teacher[0] if self._teacher else None

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

    def configure_optimizers(self) -> Any:
        """Groups by layer, weight decay that spares biases and norms, schedule per optimizer step."""
        hp, network = self.hparams, self.network
        assert network is not None
        groups = parameter_groups(
            network,
            hp["lr"],
            hp["weight_decay"],
            hp["head_lr_factor"],
            hp["layer_decay"],
            self.no_decay_names(),
            self.trainable.allowed,
        )
        optimizer = make_optimizer(hp["optimizer"], groups, hp["optimizer_args"])
        if self.acts_on_steps and unscales_itself(optimizer, self.trainer.precision_plugin):
            raise UserError(
                f"model.init_args.optimizer_args: fused, with trainer.precision {self.trainer.precision}, unscales gradients "
                f"inside the step, where the penalty of {type(self).__name__} comes too late: drop fused, or use bf16-mixed"
            )
        around_steps(optimizer, self.before_step, self.after_step)
        if hp["lr_schedule"] == "constant" and not hp["warmup"] and not hp["head_warmup"]:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        self._held_steps = head_warmup_steps(self.trainable, hp["head_warmup"], total)
        self._alone = self.trainable.of("new")
        if hp["lr_schedule"] == "constant" and not hp["warmup"]:
            return optimizer
        if total == float("inf"):
            raise UserError("lr_schedule and warmup need an end: set trainer.max_epochs or trainer.max_steps")
        begun = lambda: self.trainable.schedule_from  # noqa: E731
        scheduler = make_scheduler(optimizer, hp["lr_schedule"], hp["warmup"], int(total), begun)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # ---- what a variant defines ----

    def prepare(self, source: "SourceData | None") -> None:
        """Called at the start of a fit, before the first step and after a checkpoint is restored: for what a variant computes
        of the source task.

        Args:
            source: The source task's data, loaded and checked; None where the run has none.
        """
        self.source = source

    def anchor_loss(self, batch: Batch, output: Output) -> Tensor | None:
        """The anchor's term summed over items, a scalar with gradient; None for none."""
        return None

    def add_penalty_grad(self, optimizer: Optimizer) -> None:
        """Writes the penalty on weights: once per optimizer step, after unscaling, before clipping."""

    def before_step(self, optimizer: Optimizer) -> None:
        """Right before each optimizer step that changes weights, without gradient: gradients are complete and clipped.

        For decay apart from the loss, which belongs to the weights that the step starts from. A step that a gradient scaler
        skips is not seen here. With sharded parameters, each rank changes its part.
        """

    def after_step(self, optimizer: Optimizer) -> None:
        """Right after each optimizer step that changed weights, without gradient: before averages and checkpoints of the step.

        Called as often as `before_step`; for what corrects the new weights, such as a projection.
        """

    def penalty_value(self) -> Tensor | None:
        """Value of the penalty on weights, a scalar, for the log."""
        return None

    @property
    def acts_on_steps(self) -> bool:
        """Whether the variant defines a penalty's gradient, or acts around steps."""
        hooks = ("add_penalty_grad", "before_step", "after_step")
        return any(getattr(type(self), name) is not getattr(SFTModule, name) for name in hooks)

    def said(self) -> str:
        """One line on `found`."""
        return ""

    def no_decay_names(self) -> set[str]:
        """Names of parameters that the optimizer's weight decay must spare because the anchor owns them."""
        return set()

    # ---- the steps ----

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

    def train(self, mode: bool = True) -> "SFTModule":
        """Train mode, except for normalisation statistics that stand still, and for a pretrained encoder that is frozen
        whole: a linear probe sees the features as they are, without dropout.
        """
        super().train(mode)
        if self.network is not None:
            evaluate_frozen(self.network)
            for norm in still_batchnorms(self.network, self.hparams["freeze_batchnorm_stats"]):
                norm.eval()
        return self

    def _follow(self, change: Change) -> None:
        """Modes of layers, the optimizer, its schedule and DDP follow what is trained."""
        self.train(self.training)
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        for optimizer in self.trainer.optimizers:
            follow(optimizer, [s for s in schedulers if s.optimizer is optimizer], change)
        renew_reducer(self.trainer.strategy)

    def on_fit_start(self) -> None:
        """Everything in train mode (transformers hands out models in evaluation mode), the teacher beside the student."""
        self.train()
        self.move_teacher()
        self._sums, self._items = None, 0  # an interrupted fit may have left a step half summed

    def on_validation_start(self) -> None:
        self.move_teacher()

    def on_test_start(self) -> None:
        self.move_teacher()

    def move_teacher(self) -> None:
        """Puts the teacher on the student's device, in its precision."""
        if self.teacher is not None:
            self.teacher.to(self.device, next(iter(self.parameters())).dtype)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """New layers alone in a head's warm-up, then all."""
        step = self.trainer.global_step
        if self._held_steps:
            self.trainable.train(self._alone if step < self._held_steps else self.trainable.allowed, step)
        self.trainable.check_claimed()

    def notes(self) -> list[str]:
        """What a run should say at its start, one sentence each."""
        if not self._held_steps:
            return []
        return [f"new layers learn alone for the first {self._held_steps} steps (head_warmup)"]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sums over this micro-batch's items, in units of the step's expected number of items.

        Lightning divides by the number of micro-batches and DDP by the number of ranks; both are undone here, and the
        true number of items, known at the end of the step, corrects the gradient in `on_before_optimizer_step`.
        """
        output = self.output(batch)
        task, count = self.objective.loss(output, batch)
        anchor = self.anchor_loss(batch, output)
        total = task if anchor is None else task + anchor
        self._items += count
        sums = torch.stack([task.detach(), task.new_zeros(()) if anchor is None else anchor.detach()])
        sums = sums.to(torch.float32 if sums.device.type == "mps" else torch.float64)
        self._sums = sums if self._sums is None else self._sums + sums
        return total * (self.trainer.accumulate_grad_batches * self.trainer.world_size / self.expected_items)

    @property
    def expected_items(self) -> int:
        """Items of an optimizer step as far as they are known beforehand, the same on every rank: the global batch size."""
        return int(getattr(getattr(self.trainer, "datamodule", None), "batch_size", 1))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """After unscaling and before clipping: the exact number of items, then the penalty on weights."""
        assert self._sums is not None
        of_this_rank = sums = self._sums
        count = self._items
        if self.trainer.world_size > 1:
            reduced = self.all_reduce_sum(torch.cat([sums, sums.new_tensor([float(count)])]))
            sums, count = reduced[:2], int(reduced[2])
        if count not in (0, self.expected_items):
            grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            torch._foreach_mul_([local(g) for g in grads], self.expected_items / count)
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (every and (self.trainer.global_step + 1) % every == 0) or self.trainer.global_step == 0:
            self._log_step(sums, count, optimizer)
        self.add_penalty_grad(optimizer)
        self.stepped = (sums, of_this_rank, count)
        self._sums, self._items = None, 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks."""
        reduced: Tensor = self.trainer.strategy.reduce(tensor.to(self.device).clone(), reduce_op="sum")
        return reduced

    def _log_step(self, sums: Tensor, count: int, optimizer: Optimizer) -> None:
        task, anchor = (float(v) / max(count, 1) for v in sums)
        penalty, first = self.penalty_value(), optimizer.param_groups[0]
        base = first.get("initial_lr", first["lr"])
        if penalty is not None:
            anchor += float(penalty)
        values = {
            "train/loss": task + anchor,
            "train/loss_task": task,
            "train/loss_anchor": anchor,
            "train/anchor_ratio": anchor / task if task > 0 else 0.0,
            "train/lr": self.hparams["lr"] * self.trainable.lr_factor * (first["lr"] / base if base else 1.0),
            "train/items": float(count),
        }
        self.log_dict(values, on_step=True, on_epoch=False, logger=False)
        for logger in self.trainer.loggers:  # now: Lightning would after the hooks in which a checkpoint is made
            logger.log_metrics(
                {**values, "epoch": float(self.trainer.current_epoch)}, step=self.trainer.global_step + 1
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> Output:  # type: ignore[override]
        return self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Output:  # type: ignore[override]
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> Output:
        assert self.task is not None
        output = self.output(batch)
        update_meters(self.task, self.stage_meters(stage), output, batch)
        return output

    def stage_meters(self, stage: str) -> dict[str, Metric]:
        """The metric objects of 'val' or 'test'."""
        return dict(self.meters[f"{stage}_meters"].items())  # type: ignore[operator]

    def on_validation_epoch_start(self) -> None:
        self._reset_meters("val")  # one that was left halfway may have come before

    def on_test_epoch_start(self) -> None:
        self._reset_meters("test")

    def _reset_meters(self, stage: str) -> None:
        for meter in self.stage_meters(stage).values():
            meter.reset()

    def on_validation_epoch_end(self) -> None:
        self._log_meters("val")

    def on_test_epoch_end(self) -> None:
        self._log_meters("test")

    def _log_meters(self, stage: str) -> None:
        values = read_meters(self.stage_meters(stage))
        logged = {f"{stage}/{k}": v for k, v in values.items()}
        progress = self.trainer.fit_loop.epoch_progress.current
        if progress.ready:  # it trains, or has trained: the loggers' step is that of optimizer steps done
            logged["step"], logged["epoch"] = float(self.trainer.global_step), progress.ready - 1.0
        self.log_dict(logged)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """One plain dict per sample: what predictions.jsonl holds."""
        assert self.task is not None
        return self.task.decode(self.output(batch), batch)

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


def check_same(theirs: dict[str, Any] | None, ours: dict[str, Any] | None) -> None:
    """Raises UserError naming each setting in which a checkpoint differs from what was asked for, where that is known."""
    if theirs is None:
        raise UserError(
            "ckpt_path: the checkpoint is not of this project; to start from weights use network.init_args.pretrained"
        )
    if ours is None:
        return
    if theirs["variant"] != ours["variant"]:
        raise UserError(
            f"ckpt_path: the checkpoint is of {theirs['variant']}, asked for is {ours['variant']}; to start from its "
            "weights instead, set network.init_args.pretrained to its run directory"
        )
    if theirs["network"] != ours["network"]:
        raise UserError(f"ckpt_path: the checkpoint holds a {theirs['network']}, asked for is {ours['network']}")
    mine, held = ours.get("transforms"), theirs.get("transforms") or []  # older checkpoints are without
    if mine is not None and mine != held:
        raise UserError(f"ckpt_path: the checkpoint's network has transforms {held}, asked for are {mine}")
    for what in ("name", "num_outputs", "labels"):
        mine, held = (ours["task"] or {}).get(what), (theirs["task"] or {}).get(what)
        if mine is not None and held is not None and mine != held:
            raise UserError(f"ckpt_path: the checkpoint's task has {what} {held}, the data's {mine}")
    differ = [
        f"{k} {v!r} (asked for: {ours['anchor'].get(k)!r})"
        for k, v in theirs["anchor"].items()
        if ours["anchor"].get(k) != v
    ]
    if differ:
        raise UserError(f"ckpt_path: the checkpoint was trained with {', '.join(differ)}")
    if theirs["teacher"] and ours["teacher"] and theirs["teacher"] != ours["teacher"]:
        raise UserError(
            f"ckpt_path: the checkpoint's teacher has hash {theirs['teacher'][:12]}, network.init_args.pretrained "
            f"gives {ours['teacher'][:12]}: the pretrained weights have changed"
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raises UserError unless `value` is one of `choices`: the command line checks types, a Python script does not."""
    if value not in choices:
        raise UserError(f"{name}: '{value}' is none of {', '.join(choices)}{nearest(str(value), choices)}")
