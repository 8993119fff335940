"""Tasks: what is predicted, its loss (summed over items), its metrics, its decoding."""

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import Batch, TaskInfo
from sft_lightning.tasks.base import Task, TaskMetric
from sft_lightning.tasks.causal_lm import CausalLM
from sft_lightning.tasks.classification import Classification
from sft_lightning.tasks.multi_label import MultiLabel
from sft_lightning.tasks.regression import Regression

TASKS: dict[str, type[Task]] = {t.name: t for t in (Classification, MultiLabel, Regression, CausalLM)}

__all__ = [
    "TASKS",
    "Batch",
    "CausalLM",
    "Classification",
    "MultiLabel",
    "Regression",
    "Task",
    "TaskInfo",
    "TaskMetric",
    "make_task",
]


def make_task(info: TaskInfo, label_smoothing: float = 0.0) -> Task:
    """The task that `info` names. Label smoothing, a share in [0, 1), is for classification alone."""
    if info.name not in TASKS:
        raise UserError(f"no task '{info.name}'{nearest(info.name, TASKS)}; there are {', '.join(TASKS)}")
    if label_smoothing:
        if info.name != "classification":
            raise UserError(f"label_smoothing is for classification; the data's task is {info.name}: leave it 0")
        return Classification(info, label_smoothing)
    return TASKS[info.name](info)
