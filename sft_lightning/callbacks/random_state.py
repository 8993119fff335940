"""Saves random number generators in each checkpoint, so that a resumed run draws the same numbers as an uninterrupted one."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

KEY = "random_states"


def states() -> dict[str, Any]:
    """The states of python's, numpy's and torch's generators, as plain values and tensors."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, numbers, second = random.getstate()
    return {
        "python": [version, list(numbers), second],
        "numpy": [
            name,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(saved: dict[str, Any]) -> None:
    """Restores the generators' states."""
    version, numbers, second = saved["python"]
    random.setstate((version, tuple(numbers), second))
    name, keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(saved["torch"].cpu())
    if saved["cuda"] and len(saved["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in saved["cuda"]])


class RandomState(Callback):
    """Saves each rank's generators in every checkpoint, and restores them when training resumes.

    If the number of ranks has changed, the generators stay as seeded, as there is no state for each rank.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        mine: list[Any] = [states()]
        if trainer.world_size > 1:
            mine = [None] * trainer.world_size
            dist.all_gather_object(mine, states())
        checkpoint[KEY] = mine

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get(KEY, [])
        if trainer.state.fn == "fit" and len(saved) == trainer.world_size:
            self._saved = saved[trainer.global_rank]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the states after all measurements before training."""
        if self._saved is not None:
            restore(self._saved)
            self._saved = None
