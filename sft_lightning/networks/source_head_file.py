"""Reads and writes the two files in which an export keeps a source head: its weights, and its labels and task."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import TaskInfo
from sft_lightning.tasks import TASKS

WEIGHTS, ABOUT = "source_head.safetensors", "source_head.json"


def write_source_head(head: nn.Module, task: TaskInfo, labels: Sequence[str], folder: str) -> None:
    """Writes a source head with its current weights into an export folder."""
    state = {n: v.detach().cpu().contiguous() for n, v in head.state_dict().items()}
    save_file(state, Path(folder) / WEIGHTS, metadata={"format": "pt"})
    about = {"task": task.name, "num_outputs": task.num_outputs, "labels": list(labels)}
    (Path(folder) / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_about(path: Path) -> dict[str, Any]:
    """`task`, `num_outputs` and `labels` of a kept source head."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        labels, task, outputs = about["labels"], about["task"], about["num_outputs"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            "network.keep_source_head", f"{path} cannot be read: {error}", "export again, or use true"
        ) from None
    fine = isinstance(labels, list) and all(isinstance(n, str) for n in labels) and len(labels) in (0, outputs)
    if not (fine and isinstance(outputs, int) and task in TASKS):
        raise UserError(
            "network.keep_source_head",
            f"{path} is damaged: task {task!r}, num_outputs {outputs!r}, labels {labels!r:.80}",
            "export again, or use true",
        )
    return {"labels": labels, "task": task, "num_outputs": outputs}
