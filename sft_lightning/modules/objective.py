"""What a variant defines: the terms beside the task's loss, and what it does around steps."""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from sft_lightning.core.structures import Batch, Output
from sft_lightning.modules.building import BuiltModule

if TYPE_CHECKING:
    from sft_lightning.evaluation.source_data import SourceData


class Objective(BuiltModule):
    """The hooks of a variant, which do nothing here."""

    needs_source: ClassVar[bool] = False
    """Whether a fit needs the source task's data"""
    checkpoint_keys: ClassVar[tuple[str, ...]] = ()
    """What the variant adds to a checkpoint, besides the student"""

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
        return any(getattr(type(self), name) is not getattr(Objective, name) for name in hooks)

    def said(self) -> str:
        """One line on `found`."""
        return ""

    def no_decay_names(self) -> set[str]:
        """Names of parameters that the optimizer's weight decay must spare because the anchor owns them."""
        return set()
