"""Writes `run.json` as the run goes: what it is at the start, every metric's final and best, how it ended."""

import time
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.callbacks.checkpoints import better, selecting
from sft_lightning.callbacks.retention import RetentionMonitor
from sft_lightning.callbacks.stop import Interrupted
from sft_lightning.data.base import SFTDataModule
from sft_lightning.errors import UserError
from sft_lightning.modules.base import SFTModule
from sft_lightning.runs import MetricsLog, Record
from sft_lightning.runs.record import improves
from sft_lightning.runs.wandb_log import WandbLog


class RunRecorder(Callback):
    """Keeps `run.json`.

    Args:
        record: Where to write; already started with what is known before data and network are built.
        select_by: Metric that selects best.ckpt; default the task's first on validation.
        needs_test: The run is to be tested after fit, so a test split must be there.
    """

    def __init__(self, record: Record, select_by: str | None = None, needs_test: bool = False) -> None:
        self.record, self.select_by, self.needs_test = record, select_by, needs_test
        self._began = time.perf_counter()
        self._best: float | None = None
        self._fitting = False
        self.closing = False  # set for the validation that a fit ends with where the last one came earlier
        self.measured_at: int | None = None

    def _about(self, trainer: Trainer, module: SFTModule) -> dict[str, Any]:
        data, network = trainer.datamodule, module.network  # type: ignore[attr-defined]
        assert network is not None
        counts = {
            "total": network.parameters(),
            "encoder": network.encoder.parameters(),
            "head": network.head.parameters(),
        }
        numbers = {name: sum(p.numel() for p in parameters) for name, parameters in counts.items()}
        numbers["trainable"] = sum(p.numel() for p in network.parameters() if p.requires_grad)
        about: dict[str, Any] = {
            "task": module.info.to_dict() if module.info else None,
            "parameters": numbers,
            "layers": [name for name, _ in network.layers()],
            "pretrained": {"name": network.pretrained, **asdict(network.report)},
            "teacher_hash": module.teacher.hash if module.teacher else None,
            "device": {
                "type": str(trainer.strategy.root_device.type),
                "name": torch.cuda.get_device_name() if trainer.strategy.root_device.type == "cuda" else "cpu",
                "ranks": trainer.world_size,
                "precision": str(trainer.precision),
            },
        }
        if isinstance(data, SFTDataModule):
            about["data"] = {"description": data.describe(), "fingerprint": data.fingerprint()}
        monitor = retention_monitor(trainer)
        if monitor is not None and monitor.source is not None and monitor.source.splits:
            about["retention"] = {
                "description": monitor.source.describe(),
                "fingerprint": monitor.source.fingerprint(),
            }
        return about

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._fitting = stage == "fit"
        self._began = time.perf_counter()
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self._fitting and self.needs_test and isinstance(data, SFTDataModule) and "test" not in data.splits:
            raise UserError(
                f"test_after_fit: {type(data).__name__} has no test split: give one, or set test_after_fit false"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SFTModule)
        if not trainer.is_global_zero:
            return
        about = self._about(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsLog) and trainer.global_step:
                logger.rewind(trainer.global_step)
            if isinstance(logger, WandbLog):
                logger.describe({**about, "git": self.record.content.get("git")})
        monitor = retention_monitor(trainer)
        for name, value in (monitor.before if monitor else {}).items():
            self.record.content["metrics"].setdefault(name, {})["before"] = value
        self.record.update(**about)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_other(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate" and not self.closing:
            self._start_other(trainer, pl_module)

    def _start_other(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero and isinstance(module, SFTModule) and "parameters" not in self.record.content:
            self.record.update(**self._about(trainer, module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, pl_module, testing=True)

    def _note(self, trainer: Trainer, module: LightningModule, testing: bool = False) -> None:
        assert isinstance(module, SFTModule)
        assert module.info is not None
        if not trainer.is_global_zero:
            return
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if "/" in k and not k.startswith("train/")}
        if trainer.state.fn == "validate" and not self.closing:
            self.record.update(validate={k: v for k, v in values.items() if not k.startswith("test/")})
            return
        if testing:
            # The test split's own values: target, source and drift, apart from those of validation.
            self.record.update(test={k: v for k, v in values.items() if not k.startswith("val/")})
            values = {k: v for k, v in values.items() if k.startswith("test/")}
        for name, value in values.items():
            self.record.metric(name, value, trainer.global_step, better(name, module.info))
        name, mode = selecting(module.info, self.select_by)
        if not testing:
            self.measured_at = trainer.global_step
        if not testing and name in values:
            score = values[name]
            if improves(score, self._best, mode):
                self._best = score
                for metric in values:
                    self.record.content["metrics"][metric]["selected"] = values[metric]
                self.record.content["selected"] = {
                    "by": name,
                    "step": trainer.global_step,
                    "epoch": trainer.current_epoch,
                }
        self.record.write()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        monitor = retention_monitor(trainer)
        times = self.record.content.setdefault("times", {})
        times["fit_s"] = round(time.perf_counter() - self._began, 3)
        times["retention_s"] = round(monitor.seconds, 3) if monitor else 0.0
        train = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        for name, value in train.items():
            self.record.content["metrics"].setdefault(name, {})["final"] = value
        self.record.update(steps=trainer.global_step, epochs=trainer.current_epoch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            stopped = isinstance(exception, Interrupted | KeyboardInterrupt)
            reason = type(exception).__name__ + (f": {exception}" if str(exception) else "")
            self.record.end("interrupted" if stopped else "failed", reason=reason, steps=trainer.global_step)

    # ---- resume ----

    def state_dict(self) -> dict[str, Any]:
        return {"metrics": self.record.content["metrics"], "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._fitting:  # testing a checkpoint restores callbacks too, and must not turn the record back
            self.record.content["metrics"] = state_dict["metrics"]
            self._best = state_dict["best"]


def retention_monitor(trainer: Trainer) -> RetentionMonitor | None:
    """The trainer's retention monitor, if there is one."""
    return next((c for c in trainer.callbacks if isinstance(c, RetentionMonitor)), None)  # type: ignore[attr-defined]
