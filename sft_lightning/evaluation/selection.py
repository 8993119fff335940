"""Chooses best.ckpt: by which metric, and which of two validations is better by it."""

from dataclasses import dataclass

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.metric_info import GAUGES
from sft_lightning.core.structures import TaskInfo
from sft_lightning.evaluation.beside import CALIBRATION
from sft_lightning.evaluation.known_metrics import info_of
from sft_lightning.runs.record import improves
from sft_lightning.tasks import make_task


@dataclass(frozen=True)
class Candidate:
    """The result of a validation whose network may become best.ckpt."""

    value: float
    """Value of the metric that selects"""
    loss: float | None = None
    """`val/loss`; None if it was not measured"""

    @classmethod
    def of(cls, values: dict[str, float], by: str) -> "Candidate | None":
        """The candidate of one validation's values; None if they lack the metric `by`."""
        return cls(values[by], values.get("val/loss")) if by in values else None

    def ahead(self, other: "Candidate | None", mode: str) -> bool:
        """Whether this candidate replaces an earlier one: by its value (`mode` is 'max' or 'min'), or by the lower loss if
        the values are equal.

        Ties are common with few validation samples. If the earliest won them, every way of training would seem to learn
        less and keep more.
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
        source: The source task, if there is one.

    Raises:
        UserError: `select_by` is not measured, or its better direction is unknown.
    """
    task = make_task(info)
    name = f"val/{task.primary.name}" if select_by is None else select_by
    names = [f"val/{n}" for n in ("loss", *task.metric_names)]
    beside = [f"val/{n}" for n in CALIBRATION if n in task.metrics]  # whether calibration is set, checkpoints.py checks
    if name not in (*names, *beside) and not name.startswith(("retention/", "drift/")):
        raise UserError(
            "select_by",
            f"'{name}' is not measured on validation{nearest(name, names)}",
            f"use one of {', '.join(names)}, or a metric under retention/ or drift/",
        )
    found = info_of(name, info, source)
    if found is None or found.better is None:
        asked = [] if source is None else ["forgetting", *make_task(source).metric_names]
        near = nearest(name, [*GAUGES, *(f"retention/{n}" for n in asked)])
        raise UserError(
            "select_by", f"it is not known whether more or less of '{name}' is better{near}", "name another metric"
        )
    return name, found.better
