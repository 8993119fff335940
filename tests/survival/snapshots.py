"""What a kill would leave behind: copies of the run directory, taken at hooks of a training that goes on undisturbed."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from sft_lightning.runs import load


class Snapshots(Checkpoint):
    """Copies the run directory to `folder` at the hooks below, after all other callbacks.

    A process that is killed leaves its files as they are and loses the rest: so does a copy.
    """

    def __init__(self, folder: str) -> None:
        self.folder, self.count = Path(folder), 0

    def copy(self, trainer: Trainer, where: str) -> None:
        if trainer.state.fn == "fit" and (Path(trainer.default_root_dir) / "checkpoints/last.ckpt").is_file():
            target = self.folder / f"{self.count:03}-{where}-{trainer.global_step}"
            shutil.copytree(trainer.default_root_dir, target)
            self.count += 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.copy(trainer, "batch_start")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.copy(trainer, "batch_end")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.copy(trainer, "validation_batch")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.copy(trainer, "validation_end")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.copy(trainer, "epoch_end")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.copy(trainer, "train_end")

    def on_test_batch_end(self, trainer: Trainer, *args: Any) -> None:
        target = self.folder / f"{self.count:03}-test-{trainer.global_step}"
        shutil.copytree(trainer.default_root_dir, target)
        self.count += 1


def outcome(path: str | Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on what happened on the way."""
    run = load(path)
    last = torch.load(run.files.last, weights_only=True)
    best = torch.load(run.files.best, weights_only=True) if run.files.best.is_file() else {}
    history = [{k: v for k, v in row.items() if k != "time"} for row in run.history()]
    kept = ("metrics", "selected", "test", "steps", "epochs", "status", "teacher_hash", "data")
    return {
        "weights": last["state_dict"],
        "raw weights": last.get("raw_weights", {}),
        "optimizer": last["optimizer_states"],
        "schedule": last["lr_schedulers"],
        "random states": last["random_states"],
        "position": last["position"],
        "best weights": best.get("state_dict", {}),
        "best step": best.get("global_step"),
        "history": history,
        "record": {k: run.record.get(k) for k in kept},
    }


def difference(one: Any, other: Any, path: str = "") -> str | None:
    """Where two outcomes differ first, or None."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
        return None if same or (isinstance(other, torch.Tensor) and one.isnan().any()) else f"{path}: other values"
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{path}: {sorted(map(str, one.keys() ^ other.keys()))} is in one alone"
        found = (difference(one[k], other[k], f"{path}/{k}") for k in one)
        return next((f for f in found if f), None)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return f"{path}: {len(one)} entries, or {len(other)}"
        found = (difference(a, b, f"{path}/{i}") for i, (a, b) in enumerate(zip(one, other, strict=True)))
        return next((f for f in found if f), None)
    if isinstance(one, float) and isinstance(other, float) and one != one and other != other:
        return None
    return None if json.dumps(one) == json.dumps(other) else f"{path}: {one!r}, or {other!r}"
