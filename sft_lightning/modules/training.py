"""The training step: sums the loss over micro-batches and ranks, divides by the exact number of items, adds the penalty."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sft_lightning.anchors.by_rows import spared
from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch
from sft_lightning.modules.fused import check_unscaling, choose_kernel, match_layouts
from sft_lightning.modules.head_warmup import head_warmup_steps
from sft_lightning.modules.objective import Objective
from sft_lightning.modules.optim import follow, make_optimizer, make_scheduler, parameter_groups
from sft_lightning.modules.step_hooks import around_steps
from sft_lightning.modules.step_values import show
from sft_lightning.modules.trainable import Change
from sft_lightning.sharding.reducer import renew_reducer
from sft_lightning.sharding.tensors import local


class TrainingModule(Objective):
    """A module that trains: optimizer and schedule, the loss of a step, and its logged values."""

    _sums: Tensor | None
    _items: float
    _held_steps: int
    _alone: frozenset[str]

    def configure_optimizers(self) -> Any:
        """The optimizer, with groups by layer and no weight decay on biases and norms, and a schedule per optimizer step."""
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
        choose_kernel(optimizer, hp["optimizer_args"])
        penalised = type(self).__name__ if self.acts_on_steps else ""
        check_unscaling(optimizer, self.trainer.precision_plugin, penalised, bool(self.trainer.gradient_clip_val))
        around_steps(optimizer, self.before_step, self.after_step)
        if hp["lr_schedule"] == "constant" and not hp["warmup"] and not hp["head_warmup"]:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        self._held_steps = head_warmup_steps(self.trainable, hp["head_warmup"], total)
        self._alone = self.trainable.of("new")
        if hp["lr_schedule"] == "constant" and not hp["warmup"]:
            return optimizer
        if total == float("inf"):
            raise UserError(
                f"model.{'warmup' if hp['lr_schedule'] == 'constant' else 'lr_schedule'}",
                "needs the number of all steps, and the run has no end",
                "set trainer.max_epochs or trainer.max_steps",
            )
        begun = lambda: self.trainable.schedule_from  # noqa: E731
        scheduler = make_scheduler(optimizer, hp["lr_schedule"], hp["warmup"], int(total), begun)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _follow(self, change: Change) -> None:
        """Adapts modes of layers, the optimizer, its schedule and DDP to the trainable set."""
        self.train(self.training)
        schedulers = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        for optimizer in self.trainer.optimizers:
            follow(optimizer, [s for s in schedulers if s.optimizer is optimizer], change)
        renew_reducer(self.trainer.strategy)

    def on_fit_start(self) -> None:
        """Sets train mode, because transformers returns models in evaluation mode, and moves the teacher to the student."""
        self.train()
        self.move_teacher()
        self._sums, self._items = None, 0  # an interrupted fit may have left an unfinished sum

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Trains new layers alone during head warm-up, then everything."""
        step = self.trainer.global_step
        if self._held_steps:
            self.trainable.train(self._alone if step < self._held_steps else self.trainable.allowed, step)
        self.trainable.check_claimed()

    def notes(self) -> list[str]:
        """Notes for the start of a run, one sentence each."""
        if not self._held_steps:
            return []
        return [f"new layers learn alone for the first {self._held_steps} steps (head_warmup)"]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss summed over this micro-batch's items, divided by the step's expected number of items.

        Lightning divides by the number of micro-batches and DDP by the number of ranks; the factor here undoes both. The true
        number of items is known at the end of the step, and corrects the gradient in `on_before_optimizer_step`.
        """
        output = self.output(batch)
        with spared(output.logits):
            task, count = self.task_loss(batch, output)
        anchor = self.anchor_loss(batch, output)
        total = task if anchor is None else task + anchor
        self._items += count
        sums = in_double(task, anchor)
        self._sums = sums if self._sums is None else self._sums + sums
        return total * (self.trainer.accumulate_grad_batches * self.trainer.world_size / self.expected_items)

    training_step.__signature__ = signature(training_step)  # type: ignore[attr-defined]  # Lightning looks for it in each step

    @property
    def expected_items(self) -> int:
        """The global batch size: the number of items that an optimizer step should have, equal on every rank."""
        return int(getattr(getattr(self.trainer, "datamodule", None), "batch_size", 1))

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Corrects gradients for the exact number of items, then adds the penalty, after unscaling and before clipping."""
        assert self._sums is not None
        of_this_rank = sums = self._sums
        count = self._items
        if self.trainer.world_size > 1:
            reduced = self.all_reduce_sum(torch.cat([sums, sums.new_tensor([float(count)])]))
            sums, count = reduced[:2], float(reduced[2])
        if count not in (0, self.expected_items):
            grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            torch._foreach_mul_([local(g) for g in grads], self.expected_items / count)
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (every and (self.trainer.global_step + 1) % every == 0) or self.trainer.global_step == 0:
            self._log_step(sums, count, optimizer)
        match_layouts(optimizer)
        self.add_penalty_grad(optimizer)
        self.stepped = (sums, of_this_rank, count)
        self._sums, self._items = None, 0

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over ranks."""
        reduced: Tensor = self.trainer.strategy.reduce(tensor.to(self.device).clone(), reduce_op="sum")
        return reduced

    def _log_step(self, sums: Tensor, count: float, optimizer: Optimizer) -> None:
        task, anchor = (float(v) / (count or 1) for v in sums)
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
        show(self.trainer, values, self.device)
        # Directly, because Lightning would log after the hooks that save a checkpoint.
        for logger in self.trainer.loggers:
            logger.log_metrics(
                {**values, "epoch": float(self.trainer.current_epoch)}, step=self.trainer.global_step + 1
            )


def in_double(task: Tensor, anchor: Tensor | None) -> Tensor:
    """`[2]`: the two scalars without gradient, 0 for no anchor, in double precision if the device has it."""
    if task.device.type == "cpu":  # plain numbers take fewer operations
        return torch.tensor([task.item(), 0.0 if anchor is None else anchor.item()], dtype=torch.float64)
    sums = torch.stack([task.detach(), task.new_zeros(()) if anchor is None else anchor.detach()])
    return sums.to(torch.float32 if sums.device.type == "mps" else torch.float64)
