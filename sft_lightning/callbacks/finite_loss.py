"""Stops a run when its loss or weights become NaN or infinite, before they overwrite a checkpoint."""

import math
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import SFTDataModule
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.sharding.tensors import local, over_ranks

SHOWN = 8  # samples that an error names
ADVICE = "lower model.init_args.lr, set trainer.gradient_clip_val, or look at these samples; last.ckpt is the last finite one"


class FiniteLoss(Callback):
    """Checks the loss of every optimizer step, and the weights before each checkpoint.

    On an accelerator it checks losses only when something is logged, validated or saved, so that steps need not wait for
    the device. The error still names the first bad step. The last finite checkpoint stays.
    """

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._steps: list[tuple[int, Tensor, Tensor, float, list[int]]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows, self._steps = [], []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._rows += batch.get("rows", [])

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TunedModule)
        if pl_module.stepped is None:
            return
        sums, local, items = pl_module.stepped
        pl_module.stepped = None
        self._steps.append((trainer.global_step, sums, local, items, self._rows))
        self._rows = []
        every: int = trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        if sums.device.type == "cpu" or trainer.global_step % every == 0:
            self._check_losses(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._check_losses(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit" or not (trainer.training or trainer.validating):
            return
        self._check_losses(trainer, pl_module)
        weights = [p for p in pl_module.parameters() if p.requires_grad]
        bad = torch.stack([~local(w).isfinite().all() for w in weights]).sum() if weights else torch.zeros(())
        if int(over_ranks(bad, weights)):
            raise UserError(
                "trainer",
                f"the weights are not finite after optimizer step {trainer.global_step}, although its loss "
                "was: the gradient overflowed",
                ADVICE,
            )

    def _check_losses(self, trainer: Trainer, module: LightningModule) -> None:
        steps, self._steps = self._steps, []
        if not steps:
            return
        good = [all(map(math.isfinite, sums)) for sums in torch.stack([sums for _, sums, *_ in steps]).tolist()]
        if all(good):
            return
        step, sums, local, items, rows = steps[good.index(False)]
        task, anchor = (float(v) / (items or 1) for v in sums)
        mine = rows if not bool(local.isfinite().all()) else []
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(parts, mine)
            mine = [row for part in parts for row in part]
        loss = task + anchor
        raise UserError(
            "trainer",
            f"the loss is {'nan' if math.isnan(loss) else 'infinite'} at optimizer step {step} (loss_task "
            f"{task:.4g}, loss_anchor {anchor:.4g}), on {self._names(trainer, mine)}",
            ADVICE,
        )

    def _names(self, trainer: Trainer, rows: list[int]) -> str:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SFTDataModule) or not rows:
            return "unknown samples"
        samples = data.splits["train"].samples
        names = ", ".join(samples.name(row) for row in rows[:SHOWN])
        return names + (f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else "")
