"""`last.ckpt` and `best.ckpt`: the latest, and the one that validation chose."""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from sft_lightning.callbacks.retention import RetentionMonitor
from sft_lightning.errors import UserError, nearest
from sft_lightning.tasks import TASKS, TaskInfo, make_task


class Checkpoints(ModelCheckpoint):
    """Saves at each validation: `last.ckpt` always, `best.ckpt` where the selecting metric improved. Never test data.

    Args:
        folder: Where they go.
        select_by: Metric that selects best.ckpt; default `val/` and the task's first metric.
    """

    def __init__(self, folder: str | Path, select_by: str | None = None) -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=select_by or "val/loss",
            mode="min",
            save_last=True,
            save_top_k=1,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.select_by = select_by
        self.saved_at: int | None = None  # optimizer steps done when last.ckpt was written amid an epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What selects must be measured: else the run would fail at its first validation."""
        super().on_train_start(trainer, pl_module)
        watch = next((c for c in trainer.callbacks if isinstance(c, RetentionMonitor)), None)  # type: ignore[attr-defined]
        if self.select_by is not None and watch is not None and watch.before and self.select_by not in watch.before:
            raise UserError(
                f"select_by: '{self.select_by}' is not measured in this run{nearest(self.select_by, watch.before)}; "
                f"there are {', '.join(n for n in watch.before if n.startswith(('val/', 'retention/', 'drift/')))}"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the last step of `max_steps`, while the epoch is open: so that more steps can follow on a resume."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.is_last_batch:
            return  # the epoch's end is Lightning's to save
        if trainer.global_step == trainer.max_steps and self.saved_at != trainer.global_step:
            self.saved_at = trainer.global_step
            trainer.save_checkpoint(Path(str(self.dirpath)) / "last.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning saves once more here, when the loops are closed and no step could follow."""
        if self.saved_at != trainer.global_step:
            super().on_train_end(trainer, pl_module)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        info = getattr(getattr(trainer, "datamodule", None), "task_info", None) or getattr(pl_module, "info", None)
        if isinstance(info, TaskInfo):
            self.monitor, mode = selecting(info, self.select_by)
            self._ModelCheckpoint__init_monitor_mode(mode)  # type: ignore[attr-defined]  # sets what __init__ set


def selecting(info: TaskInfo, select_by: str | None) -> tuple[str, str]:
    """(metric, 'max' or 'min') that chooses among checkpoints."""
    task = make_task(info)
    if select_by is None:
        name, mode = task.primary
        return f"val/{name}", mode
    names = [f"val/{n}" for n in ("loss", *task.metric_names)]
    if select_by not in names and not select_by.startswith(("retention/", "drift/")):
        raise UserError(
            f"select_by: '{select_by}' is not measured on validation{nearest(select_by, names)}; "
            f"there are {', '.join(names)}, and what stands under retention/ and drift/"
        )
    return select_by, better(select_by, info)


def better(metric: str, info: TaskInfo) -> str:
    """Whether 'max' or 'min' of a logged metric is better."""
    stage, _, name = metric.partition("/")
    if metric in ("retention/agreement", "drift/features_cka"):
        return "max"
    if stage == "retention":  # of the source's task, which need not be the target's
        return next((t.metric_makers[name][1] for t in TASKS.values() if name in t.metric_makers), "min")
    return make_task(info).better(name) if stage in ("val", "test") else "min"
