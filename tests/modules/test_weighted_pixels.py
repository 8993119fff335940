"""Weights of classes: micro-batches, and anchors beside them, change nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sft_lightning.modules import DistillSFT, PlainSFT, SFTModule
from tests.exactness.cases import CASES, FewMasks, folder_of
from tests.support import fit


class Gradients(Callback):
    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        grads = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        if grads:
            self.found.append(torch.cat(grads).clone())


@pytest.mark.parametrize("variant", [PlainSFT, DistillSFT])
def test_micro_batches_of_weighted_pixels_change_nothing(variant: type[SFTModule], tmp_path: Path) -> None:
    folder = folder_of("images with masks", tmp_path)
    found = []
    for accumulate in (1, 4):
        seen = Gradients()
        data = FewMasks(class_weights=[0.1, 5.0, 1.0, 1.0], focal_gamma=1.0)
        torch.manual_seed(0)
        module = variant(CASES["images with masks"].network(folder), freeze_batchnorm_stats=True, lr=0.1)
        fit(module, data, max_steps=4, accumulate_grad_batches=accumulate, precision="64-true", callbacks=[seen])
        found.append(torch.stack(seen.found))
    assert found[0].shape == found[1].shape and found[0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)
