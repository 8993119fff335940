"""Validation, test and prediction: a stage's metrics over all batches and ranks, and one prediction per sample."""

from typing import Any

from torchmetrics import Metric

from sft_lightning.core.structures import Batch, Output
from sft_lightning.modules.step_values import log_measured
from sft_lightning.modules.training import TrainingModule
from sft_lightning.tasks.metrics import read_meters, update_meters


class MeasuredModule(TrainingModule):
    """A module that validates, tests and predicts."""

    def validation_step(self, batch: Batch, batch_idx: int) -> Output:  # type: ignore[override]
        return self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Output:  # type: ignore[override]
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> Output:
        assert self.task is not None and self.network is not None
        output = self.network.answered(self.output(batch), batch)
        update_meters(self.task, self.stage_meters(stage), output, batch)
        return output

    def stage_meters(self, stage: str) -> dict[str, Metric]:
        """The metric objects of 'val' or 'test'."""
        return dict(self.meters[f"{stage}_meters"].items())  # type: ignore[operator]

    def on_validation_epoch_start(self) -> None:
        self._reset_meters("val")  # an earlier validation may have stopped halfway

    def on_test_epoch_start(self) -> None:
        self._reset_meters("test")

    def _reset_meters(self, stage: str) -> None:
        for meter in self.stage_meters(stage).values():
            meter.reset()

    def on_validation_epoch_end(self) -> None:
        self._log_meters("val")

    def on_test_epoch_end(self) -> None:
        self._log_meters("test")

    def _log_meters(self, stage: str) -> None:
        values = read_meters(self.stage_meters(stage))
        logged = {f"{stage}/{k}": v for k, v in values.items()}
        progress = self.trainer.fit_loop.epoch_progress.current
        if progress.ready:  # during or after training, the loggers' step counts optimizer steps
            logged["step"], logged["epoch"] = float(self.trainer.global_step), progress.ready - 1.0
        log_measured(self, logged)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """One plain dict per sample, as in predictions.jsonl."""
        assert self.task is not None and self.network is not None
        return self.task.decode(self.network.answered(self.output(batch), batch, times=True), batch)
