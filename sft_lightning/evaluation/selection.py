"""Which metric chooses best.ckpt, and which of two validations is ahead by it."""

from dataclasses import dataclass

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.metric_info import GAUGES
from sft_lightning.core.structures import TaskInfo
from sft_lightning.evaluation.known_metrics import info_of
from sft_lightning.runs.record import improves
from sft_lightning.tasks import make_task


@dataclass(frozen=True)
class Candidate:
    """A network as validation saw it, which may become best.ckpt."""

    value: float
    """Of the metric that chooses"""
    loss: float | None = None
    """`val/loss`; None where it was not measured"""

    @classmethod
    def of(cls, values: dict[str, float], by: str) -> "Candidate | None":
        """From one validation's values; None where what chooses is not among them."""
        return cls(values[by], values.get("val/loss")) if by in values else None

    def ahead(self, other: "Candidate | None", mode: str) -> bool:
        """Whether this one takes the place of an earlier one: by its value, `mode` being 'max' or 'min'; where both are
        equal by the lower loss. With few validation samples ties are the rule, and were the earliest to win them, every way
        of training would seem to learn less and to keep more.
        """
        if other is None or improves(self.value, other.value, mode):
            return True
        if self.value != other.value or self.loss is None:
            return False
        return improves(self.loss, other.loss, "min")


def selecting(info: TaskInfo, select_by: str | None, source: TaskInfo | None = None) -> tuple[str, str]:
    """(metric, 'max' or 'min') that chooses among checkpoints.

    Args:
        info: The target task.
        select_by: The metric that the user names; None for the task's primary one.
        source: The source task, where there is one.

    Raises:
        UserError: `select_by` is not measured, or nobody knows which way of it is better.
    """
    task = make_task(info)
    name = f"val/{task.primary.name}" if select_by is None else select_by
    names = [f"val/{n}" for n in ("loss", *task.metric_names)]
    if name not in names and not name.startswith(("retention/", "drift/")):
        raise UserError(
            "select_by",
            f"'{name}' is not measured on validation{nearest(name, names)}; there are {', '.join(names)}, and "
            "what stands under retention/ and drift/",
        )
    found = info_of(name, info, source)
    if found is None or found.better is None:
        asked = [] if source is None else ["forgetting", *make_task(source).metric_names]
        near = nearest(name, [*GAUGES, *(f"retention/{n}" for n in asked)])
        raise UserError(
            "select_by", f"nobody knows whether more or less of '{name}' is better{near}", "name another metric"
        )
    return name, found.better
