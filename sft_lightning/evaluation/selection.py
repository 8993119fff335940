"""Which metric chooses best.ckpt, which of two validations is ahead by it, and which way of a metric is up."""

from dataclasses import dataclass

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import TaskInfo
from sft_lightning.runs.record import improves
from sft_lightning.tasks import TASKS, make_task

MORE_IS_BETTER = (
    "retention/agreement",
    "drift/features_cka",
    "drift/features_cka_debiased",
    "drift/source_correlation",
)


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


DISTANCES = ("kl", "weights_l2", "weights_relative", "buffers_relative", "source_mse")


def selecting(info: TaskInfo, select_by: str | None) -> tuple[str, str]:
    """(metric, 'max' or 'min') that chooses among checkpoints."""
    task = make_task(info)
    if select_by is None:
        name, mode = task.primary
        return f"val/{name}", mode
    names = [f"val/{n}" for n in ("loss", *task.metric_names)]
    if select_by not in names and not select_by.startswith(("retention/", "drift/")):
        raise UserError(
            f"select_by: '{select_by}' is not measured on validation{nearest(select_by, names)}; "
            f"there are {', '.join(names)}, and what stands under retention/ and drift/"
        )
    return select_by, better(select_by, info)


def direction(metric: str) -> str | None:
    """'max' or 'min' of a metric of ours, whatever the task; None where neither is better, or it is not one of ours."""
    stage, _, name = metric.partition("/")
    if stage == "drift":
        return "max" if metric in MORE_IS_BETTER else "min" if name in DISTANCES else None
    if stage == "train":
        return "min" if name.startswith("loss") else None
    if stage not in ("val", "test", "retention"):
        return None
    if name in ("loss", "forgetting"):
        return "min"
    if name == "agreement":
        return "max"
    return next((t.metric_makers[name][1] for t in TASKS.values() if name in t.metric_makers), None)


def better(metric: str, info: TaskInfo) -> str:
    """Whether 'max' or 'min' of a logged metric is better."""
    stage, _, name = metric.partition("/")
    if metric in MORE_IS_BETTER:
        return "max"
    if stage == "retention":  # of the source's task, which need not be the target's
        return next((t.metric_makers[name][1] for t in TASKS.values() if name in t.metric_makers), "min")
    return make_task(info).better(name) if stage in ("val", "test") else "min"
