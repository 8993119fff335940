"""Describes a run's data in one line."""

from collections.abc import Mapping

import numpy as np

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.split import Split
from sft_lightning.tasks import TASKS

NAMED = 6  # classes


def sizes_of(splits: Mapping[str, Split], total_train: int) -> str:
    """Samples of each split; `total_train` is the number that the training samples were drawn from."""
    line = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
    if "train" in splits and len(splits["train"]) < total_train:
        line += f" (of {total_train:,} to train on)"
    return line


def classes_of(info: TaskInfo | None, splits: Mapping[str, Split]) -> str:
    """Names and number of the classes, and the largest one's share of the validation split; empty without classes."""
    if info is None or not TASKS.find(info.name).has_classes or "val" not in splits:
        return ""
    targets = splits["val"].targets
    assert targets is not None
    shown = ", ".join(info.labels[:NAMED]) + (", …" if len(info.labels) > NAMED else "")
    share = np.bincount(targets.astype(np.int64)).max() / len(targets)
    return f"{len(info.labels)} classes ({shown}), majority share {share:.2f}"
