"""Foresees a study's cost from the timed first steps of two of its arms."""

import json
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from sft_lightning.ablation.budget import LEAST_SEEDS, SLACK, fits_of
from sft_lightning.ablation.step_timer import rows_within
from sft_lightning.ablation.study import Arm, Study
from sft_lightning.config.overrides import merged

FEATURES_ONCE = ("LinearProbe",)
"""Variants that compute features once and solve a head, without training steps"""


@dataclass(frozen=True)
class Pace:
    """Times in seconds, measured with as many processes side by side as the study has workers, up to two."""

    step_s: dict[str, float]
    """Seconds of an optimizer step, by arm: the baseline and an arm with a teacher"""
    row_s: float
    """Seconds of a validated sample"""
    other_s: float
    """Seconds of the rest of a fit: building, loading, saving"""
    sizes: dict[str, dict[str, int]]
    """Number of rows of each split of 'data' and 'retention'"""

    @staticmethod
    def read(timed: dict[str, tuple[Path, float, dict[str, Any]]]) -> "Pace | None":
        """Reads the pace from timed fits, by arm: (file of StepTimer, seconds of the whole fit, its run.json).

        None if no fit has figures.
        """
        steps: dict[str, float] = {}
        rows, others, sizes = [], [], {}
        for arm, (file, seconds, record) in timed.items():
            try:
                figures = json.loads(file.read_text())
            except (OSError, ValueError):
                continue
            made = figures["steps"]
            steps[arm] = median(made[1:] or made)
            rows.append(figures["validation_s"] / max(1, figures["validated"]))
            # The fit validates twice: before training and at the end.
            others.append(max(0.0, seconds - sum(made) - 2 * figures["validation_s"]))
            sizes = {part: record.get(part, {}).get("sizes", {}) for part in ("data", "retention")}
        return Pace(steps, max(rows), max(others), sizes) if steps else None

    @property
    def record(self) -> dict[str, Any]:
        """The pace as plain values, for study.json."""
        return asdict(self)

    # ---- foreseen costs ----

    def step(self, arm: Arm) -> float:
        """Seconds of an arm's step: its own if measured, else the fastest for PlainSFT and the slowest for others."""
        if arm.name in self.step_s:
            return self.step_s[arm.name]
        variant = str(arm.overlay.get("model", {}).get("class_path", "PlainSFT"))
        return (min if variant.endswith("PlainSFT") else max)(self.step_s.values())

    def rows(self, split: str, config: dict[str, Any]) -> int:
        """Samples of a pass over 'val' or 'test': those of the target and, if there is any, of source data."""
        trainer, found = config.get("trainer", {}), 0
        for part in ("data", "retention"):
            init = (config.get(part) or {}).get("init_args", {})
            batch = init.get("eval_batch_size") or init.get("batch_size") or 32
            found += rows_within(trainer.get(f"limit_{split}_batches"), self.sizes.get(part, {}).get(split, 0), batch)
        return found

    def fit(self, study: Study, arm: Arm, tokens: float) -> float:
        """Seconds of one fit of an arm; `tokens` is the share of the timed fits' tokens that is left after texts are cut."""
        config = merged(merged(study.base, study.common), arm.overlay)
        train, val = self.sizes["data"].get("train", 0), self.rows("val", config)
        variant = str(config.get("model", {}).get("class_path", ""))
        if variant.rpartition(".")[2] in FEATURES_ONCE:
            return self.other_s + (train + 2 * val) * self.row_s * tokens
        batch = (config.get("data") or {}).get("init_args", {}).get("batch_size") or 32
        steps, validations = length(config.get("trainer", {}), train, batch)
        return self.other_s + (steps * self.step(arm) + (1 + validations) * val * self.row_s) * tokens

    def study(self, study: Study, tokens: float = 1.0) -> float:
        """Seconds of a study with the fewest seeds, one run after another."""
        seeds, total = min(LEAST_SEEDS, len(study.seeds)), 0.0
        for arm in study.arms:
            fits = 0 if arm.path else fits_of([len(arm.settings)], len(study.tune_seeds), study.folds, seeds)
            config = merged(merged(study.base, study.common), arm.overlay)
            test = self.other_s + self.rows("test", config) * self.row_s * tokens
            total += fits * self.fit(study, arm, tokens) * SLACK + seeds * test
        return len(study.cells) * total


def length(trainer: dict[str, Any], rows: int, batch: int) -> tuple[int, int]:
    """(optimizer steps, validations) of a fit over `rows` training rows."""
    per_epoch = max(1, ceil(rows / batch))
    epochs = trainer.get("max_epochs")
    steps = per_epoch * (epochs if isinstance(epochs, int) and epochs > 0 else 1)
    most = trainer.get("max_steps", -1)
    if isinstance(most, int) and most > 0:
        steps = min(steps, most) if epochs else most
    every = trainer.get("val_check_interval")
    between = (
        every if isinstance(every, int) and every > 1 else per_epoch * (trainer.get("check_val_every_n_epoch") or 1)
    )
    return steps, max(1, steps // between)
