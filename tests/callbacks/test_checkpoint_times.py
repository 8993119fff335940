"""A run without validations saves at few ends of epochs, and always at the last."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

import sft_lightning
from sft_lightning.callbacks import Checkpoints, checkpoints
from tests.support import digits, make


@pytest.mark.parametrize(
    ("share", "epochs"), [(1e-9, [0, 5]), (1e9, [0, 1, 2, 3, 4, 5])], ids=["never worth it", "always"]
)
def test_saves_cost_a_small_share_of_training(
    pretrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, epochs: list[int]
) -> None:
    saved, save = [], Checkpoints.save

    def noted(self: Checkpoints, trainer: Trainer) -> None:
        saved.append(trainer.current_epoch)
        save(self, trainer)

    monkeypatch.setattr(Checkpoints, "save", noted)
    monkeypatch.setattr(checkpoints, "AT_MOST", share)
    options = {"runs_dir": str(tmp_path), "wandb": "disabled", "quiet": True, "signals": False, "test_after_fit": False}
    with sft_lightning.run("short", **options) as run:
        trainer = Trainer(**run.trainer_kwargs(max_epochs=6, accelerator="cpu", limit_val_batches=0))
        trainer.fit(make("plain", pretrained), datamodule=digits(shots_per_class=8))
    assert saved == epochs
    last = torch.load(run.directory.last, weights_only=True)
    assert last["global_step"] == trainer.global_step and last["epoch"] == 5
