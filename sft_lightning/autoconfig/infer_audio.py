"""Infers a data block from a folder of sounds: class folders, metadata with labels, or Speech Commands."""

from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, check_classes, classes_said
from sft_lightning.autoconfig.one_load import load_as_fit_does
from sft_lightning.core.errors import UserError
from sft_lightning.data.audio.audio_folder import AudioFolder
from sft_lightning.data.audio.metadata import metadata_of
from sft_lightning.data.audio.reading import SOUNDS
from sft_lightning.data.vision.walk import holds_images


def sound_folder(folder: Path) -> bool:
    """Whether a folder has sounds, and no images."""
    return holds_images(folder, SOUNDS) and not holds_images(folder)


def sound_plan(path: str, said: Overrides) -> DataPlan:
    """Plans `AudioFolder` data. Raises UserError for the errors of `fit`."""
    if said.task not in (None, "classification"):
        raise UserError("--task", f"{path} is a folder of sounds, not data for {said.task}", "use classification")
    metadata = metadata_of(Path(path).expanduser(), skip=True)
    label = said.label_column or "label"
    init: dict[str, Any] = {"root": path}
    if metadata is not None and said.label_column is not None:
        init["label_column"] = said.label_column
    plan = DataPlan("audio", "classification", {"class_path": "AudioFolder", "init_args": init}, 0)
    loaded = load_as_fit_does(plan, AudioFolder, said)
    targets = loaded.train.targets
    assert targets is not None
    counts = np.bincount(targets[targets >= 0], minlength=len(loaded.labels)).tolist()
    plan.counts = dict(zip(loaded.labels, counts, strict=True))
    by = "its folders" if metadata is None else f"column '{label}'"
    check_classes(path, by, plan, said.fewest_classes)
    plan.lines.insert(0, f"{path}: {plan.train:,} sounds in {classes_said(plan)}, by {by}")
    return plan
