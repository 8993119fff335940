"""Lightning as a peer: bare, and as it is usually used."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from benchmarks.bench.job import FOREVER, Job


class Module(LightningModule):
    """The module of every tutorial."""

    def __init__(self, model: nn.Module, lr: float, says: bool) -> None:
        super().__init__()
        self.model, self.lr, self.says = model, lr, says

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = self.model(**batch)["loss"]
        if self.says:
            self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.model.parameters(), lr=self.lr, weight_decay=0.0)


QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def fit(job: Job, says: bool, **settings: Any) -> None:
    trainer = Trainer(accelerator=job.accelerator, devices=1, max_epochs=FOREVER, **{**QUIET, **settings})
    trainer.fit(Module(job.model(), job.lr, says), job.loader())


def bare(job: Job) -> None:
    """No logger, no checkpoint, no bar."""
    fit(job, says=False)


def usual(job: Job) -> None:
    """self.log of the loss, CSVLogger, and a checkpoint in each turn if the workload has some."""
    saving = ModelCheckpoint(job.folder, every_n_train_steps=job.workload.steps if job.workload.saves else FOREVER)
    fit(job, says=True, logger=CSVLogger(job.folder), enable_checkpointing=True, callbacks=[saving])
