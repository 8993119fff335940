"""Tasks: each defines a kind of prediction with its loss (summed over items), its metrics and its decoding."""

from sft_lightning.core.registry import discover
from sft_lightning.core.structures import Batch, TaskInfo
from sft_lightning.tasks.base import TASKS, RowTask, Task, TaskMetric
from sft_lightning.tasks.causal_lm import CausalLM
from sft_lightning.tasks.classification import Classification
from sft_lightning.tasks.multi_label import MultiLabel
from sft_lightning.tasks.regression import Regression

__all__ = [
    "TASKS",
    "Batch",
    "CausalLM",
    "Classification",
    "MultiLabel",
    "Regression",
    "RowTask",
    "Task",
    "TaskInfo",
    "TaskMetric",
    "make_task",
]

discover(__name__)


def make_task(info: TaskInfo, label_smoothing: float = 0.0) -> Task:
    """The task that `info` names, with label smoothing (a share in [0, 1)) if the task supports it."""
    return TASKS.find(info.name)(info, label_smoothing)
