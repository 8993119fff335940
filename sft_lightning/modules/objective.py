"""The hooks of a variant: its terms beside the task's loss, and its actions before and after steps."""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from sft_lightning.core.structures import Batch, Loss, Output
from sft_lightning.modules.building import BuiltModule

if TYPE_CHECKING:
    from sft_lightning.evaluation.source_data import SourceData


class Objective(BuiltModule):
    """A module with the hooks of a variant, which do nothing by default."""

    needs_source: ClassVar[bool] = False
    """Whether a fit needs the source task's data"""
    checkpoint_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that the variant adds to a checkpoint"""

    def prepare(self, source: "SourceData | None") -> None:
        """Called at the start of a fit, before the first step and after a checkpoint is restored, so that a variant can compute
        values on the source task.

        Args:
            source: The source task's data, loaded and checked; None if the run has none.
        """
        self.source = source

    def task_loss(self, batch: Batch, output: Output) -> Loss:
        """The task's loss summed over items, with its count. The gradient is that of the mean over the count."""
        return self.objective.loss(output, batch)

    def anchor_loss(self, batch: Batch, output: Output) -> Tensor | None:
        """The anchor's term summed over items, a scalar with gradient; None without an anchor."""
        return None

    def add_penalty_grad(self, optimizer: Optimizer) -> None:
        """Adds the penalty's gradient to the weights' gradients, once per optimizer step, after unscaling, before clipping."""

    def before_step(self, optimizer: Optimizer) -> None:
        """Called right before each optimizer step that changes weights, under no_grad, with complete and clipped gradients.

        Use it for decoupled decay, which applies to the weights before the step. It is not called for a step that a gradient
        scaler skips. With sharded parameters, each rank changes its part.
        """

    def after_step(self, optimizer: Optimizer) -> None:
        """Called right after each optimizer step that changed weights, under no_grad, before its averages and checkpoints.

        It is called as often as `before_step`. Use it to correct the new weights, such as by a projection.
        """

    def penalty_value(self) -> Tensor | None:
        """Value of the penalty on weights, a scalar, for the log."""
        return None

    def kept_tensors(self) -> list[Tensor]:
        """Tensors of the variant's own that it keeps from step to step, beside network and teacher, to count their memory."""
        return []

    @property
    def acts_on_steps(self) -> bool:
        """Whether the variant defines a penalty's gradient, or acts before or after steps."""
        hooks = ("add_penalty_grad", "before_step", "after_step")
        return any(getattr(type(self), name) is not getattr(Objective, name) for name in hooks)

    @property
    def changes_steps(self) -> bool:
        """Whether the variant adds a term, a penalty or an action to steps, which may need the teacher."""
        return self.acts_on_steps or type(self).anchor_loss is not Objective.anchor_loss

    def said(self) -> str:
        """One line on `found`."""
        return ""

    def no_decay_names(self) -> set[str]:
        """Names of parameters that get no weight decay from the optimizer, because the anchor acts on them."""
        return set()
