"""Measures in every run what the network keeps: the source metric if there is source data, and always drift."""

import time
from collections.abc import Mapping
from itertools import count
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.drawn import limit_of
from sft_lightning.evaluation import Answers, DriftMeter, evaluate, moved
from sft_lightning.evaluation.beside import Beside, of_both_heads
from sft_lightning.evaluation.compared import ROWS, rows_in_fit
from sft_lightning.evaluation.retention_sets import make_sets
from sft_lightning.evaluation.said import SaidSamples, note_said
from sft_lightning.evaluation.samples import Passed, counted, drawn_line
from sft_lightning.evaluation.source_data import SourceData
from sft_lightning.evaluation.source_meter import SourceMeter
from sft_lightning.evaluation.teacher_answers import TeacherAnswers
from sft_lightning.modules.step_values import log_measured
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.tasks import Task


class RetentionMonitor(Callback):
    """Logs `retention/*` and `drift/*` before training, at each validation, and when testing.

    The source metric is that of the kept source head (or of the shared output space) on the source task's own data: its
    validation split while fitting, its test split when testing. Forgetting = source metric before − after, so that a
    positive value is a loss, in the metric's own unit (reversed for metrics for which less is better). The metric before is
    the pretrained network's, also in a resumed run. The trainer's limit_val_batches and limit_test_batches apply to the
    source data too. Samples to measure and to compare are drawn evenly (see `data/drawn.py`); their numbers are logged
    as `n/*`.

    Args:
        source: The source task's data; None measures drift only.
        drift_rows: Largest number of validation (or test) samples on which student and teacher are compared; None for ROWS, or
            what `evaluation/compared.py` decides for measurements within a fit.
        relearn_rows: Number of source training samples on which a fresh linear head is solved, whose source metric is logged
            as `retention/relearn_…`; None for none.
        calibration: Whether ECE and Brier score of the new head and of the kept source head are logged.
        sets: More sets of the source task by name, each a data module's class_path and init_args, or a corruption with its
            severity, or the word retention for `source` itself; logged as `retention/<name>/…`.
    """

    def __init__(
        self,
        source: SourceData | SFTDataModule | None = None,
        drift_rows: int | None = None,
        relearn_rows: int | None = None,
        calibration: bool = False,
        sets: Mapping[str, Any] | None = None,
    ) -> None:
        if drift_rows is not None and drift_rows < 1:
            raise UserError("drift_rows", f"must be at least 1, got {drift_rows}")
        if relearn_rows is not None and source is None:
            raise UserError("relearn_rows", "has no effect without retention", "set retention, or leave it out")
        self.source, self.drift_rows = SourceData.of(source), drift_rows
        self.rows = drift_rows or ROWS
        """Largest number of samples that the measurements now compare"""
        self.closing = False
        """Set for the validation at the end of a fit, which measures as those within it"""
        self.calibration = calibration
        self.meter = None if self.source is None else SourceMeter(self.source, relearn_rows, calibration)
        self._named = make_sets(sets, self.source)
        self.sets = {n: SourceMeter(data, None, calibration, n) for n, data in self._named.items()}
        self.before: dict[str, float] = {}
        self._seconds = self.seconds_before = 0.0  # the latter for the target's own metrics before training
        self.keeps = False
        """Keep what the pretrained network said between validations, which must be on the same data"""
        self.said: dict[str, Answers | SaidSamples] | None = None
        """If a dict, it collects predictions while a split is measured: 'source before' and 'source after' on the source
        data, 'head before' and 'head after' of the kept source head on the target's inputs (of the network's own outputs, if
        these are the pretrained ones)"""
        self._meter: DriftMeter | None = None
        self._calibration: Beside | None = None
        self._passed: dict[str, Passed] = {}
        self._teacher = TeacherAnswers()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Clears the cached teacher outputs, as this fit or test may be on other data than the one before."""
        if (self.keeps and self._passed) or self.closing:
            return
        self._teacher.clear()
        for meter in self.meters:
            meter.forget()
        self.said = None
        if isinstance(data := getattr(trainer, "datamodule", None), SFTDataModule):
            self._compare_on(data, self.drift_rows or ROWS)

    def _compare_on(self, data: SFTDataModule, rows: int) -> None:
        self.rows = rows
        data.compare_on(rows)

    # ---- the source task's data ----

    @property
    def meters(self) -> list[SourceMeter]:
        """Those of all sets of the source task, first that of `source`."""
        return [m for m in (self.meter, *self.sets.values()) if m is not None]

    @property
    def seconds(self) -> float:
        """Time that all measurements took so far, without those of the target's own metrics."""
        return self._seconds + sum(meter.seconds for meter in self.meters)

    @property
    def source_data(self) -> SFTDataModule | None:
        """The source task's data module."""
        return None if self.source is None else self.source.data

    @property
    def source_task(self) -> Task | None:
        """The source task; None until its data is loaded."""
        return None if self.source is None else self.source.task

    def _load_source(self, trainer: Trainer, module: LightningModule) -> None:
        """Loads the source data and checks that the source head has the same classes."""
        assert isinstance(module, TunedModule)
        for meter in self.meters:
            meter.load(trainer, module)

    def _answers(self, name: str) -> Answers | SaidSamples | None:
        """Collects predictions on the source samples; None if they are not wanted."""
        if self.said is None or self.source_task is None:
            return None
        return self.said.setdefault(name, Answers() if self.source_task.has_classes else SaidSamples(self.source_task))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Loads the source data, and gives it to the variant too."""
        self._load_source(trainer, pl_module)
        assert isinstance(pl_module, TunedModule)
        data = getattr(trainer, "datamodule", None)
        if self.drift_rows is None and pl_module.task is not None and isinstance(data, SFTDataModule):
            self._compare_on(data, rows_in_fit(trainer, data, pl_module.task))
        pl_module.prepare(self.source)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._load_source(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._load_source(trainer, pl_module)

    # ---- before training ----

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures target and source metrics before training, and logs them as step 0."""
        assert isinstance(pl_module, TunedModule) and pl_module.network is not None
        if trainer.limit_val_batches == 0:
            return
        if not self.before and trainer.global_step == 0:
            self.before |= self._target_before(trainer, pl_module)
        for meter in self.meters:
            if meter.task is not None and meter.first not in self.before:
                answers = self._answers("source before") if meter is self.meter else None
                start = meter.measure(trainer, pl_module, "val", True, answers)
                found = meter.with_forgetting(start, start)
                self.before |= self._named.also(found) if meter is self.meter else found
        if trainer.global_step == 0:
            for logger in trainer.loggers:
                logger.log_metrics(dict(self.before), step=0)

    def _target_before(self, trainer: Trainer, module: TunedModule) -> dict[str, float]:
        """The target metrics before training, and the drift if there is a teacher."""
        network, data = module.network, getattr(trainer, "datamodule", None)
        if not isinstance(data, SFTDataModule):
            return {}
        assert network is not None and module.task is not None
        began, passed, numbers = time.perf_counter(), Passed(), count()
        meter = DriftMeter(network) if module.teacher is not None else None

        task, calibration, compared = module.task, self._of_target(module), self._seconds

        def score(batch: Batch) -> Output:
            output: Output = network(batch["x"], task.select(batch))
            number = next(numbers)
            if meter is not None and passed.compared_now:
                self._add(meter, trainer, module, output, batch, number)
            if calibration is not None:
                calibration.add(output, batch)
            return network.answered(output, batch)

        limit = limit_of(trainer, "val")
        loader = passed.through(data.loader("val", trainer.global_rank, trainer.world_size, limit=limit))
        values = {f"val/{k}": v for k, v in evaluate(trainer, module, loader, data.receive, module.task, score).items()}
        if calibration is not None:
            values |= {f"val/{name}": value for name, value in calibration.values().items()}
        self.seconds_before += time.perf_counter() - began - (self._seconds - compared)
        began = time.perf_counter()
        drift = {} if meter is None else {**moved(module), **meter.values()}
        self._seconds += time.perf_counter() - began
        return values | drift

    def _add(
        self, meter: DriftMeter, trainer: Trainer, module: TunedModule, student: Output, batch: Batch, number: int
    ) -> Output:
        """Compares both networks on a batch, and returns the teacher's output."""
        assert module.task is not None
        began = time.perf_counter()
        teacher = self._teacher.of(trainer, module, batch, number)
        meter.add(*module.task.pair(student, teacher, batch))
        self._seconds += time.perf_counter() - began
        return teacher

    def _of_target(self, module: TunedModule) -> Beside | None:
        assert module.task is not None
        return of_both_heads(module.task, self.source_task, module.device) if self.calibration else None

    # ---- drift, on each validation (or test) batch ----

    def _start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, TunedModule) and module.network is not None
        self._meter = DriftMeter(module.network) if module.teacher is not None else None
        self._passed = {"target": Passed()}
        self._calibration = self._of_target(module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, pl_module)

    def _compare(self, trainer: Trainer, module: LightningModule, student: Any, batch: Batch, number: int) -> None:
        assert isinstance(module, TunedModule)
        self._passed["target"].count(batch)
        if self._calibration is not None and isinstance(student, Output):
            self._calibration.add(student, batch)
        if self._meter is None or not isinstance(student, Output) or module.teacher is None:
            return
        if not batch.get("compared", True):
            return
        teacher = self._add(self._meter, trainer, module, student, batch, number)
        if self.said is not None:
            note_said(self.said, module, batch, teacher, student)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._compare(trainer, pl_module, outputs, batch, batch_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._compare(trainer, pl_module, outputs, batch, batch_idx)

    def _finish(self, trainer: Trainer, module: LightningModule, split: str) -> None:
        assert isinstance(module, TunedModule)
        began = time.perf_counter()
        values = {} if self._meter is None else {**moved(module), **self._meter.values()}
        if self._calibration is not None:
            values |= {f"{split}/{name}": value for name, value in self._calibration.values().items()}
        self._seconds += time.perf_counter() - began
        if self.meter is not None:
            values |= self._named.also(self.meter.kept(trainer, module, split, self.before, self._answers))
        for meter in self.sets.values():
            values |= meter.kept(trainer, module, split, self.before)
        log_measured(module, values | self._samples(split))
        self._meter = None

    def _samples(self, split: str) -> dict[str, float]:
        """Numbers of samples behind the metrics, on all ranks, as `n/…`: for the columns of `COUNTED`."""
        meter, target = self.meter, self._passed["target"]
        source, relearned = (Passed(), 0) if meter is None else (meter.passed, meter.relearned)
        compared = target.compared if self._meter else 0
        measured = {**self.sets, **({self._named.itself: meter} if self._named.itself and meter else {})}
        return counted(split, target, source, compared, relearned, {n: m.passed for n, m in measured.items()})

    def says_of_samples(self, trainer: Trainer) -> str | None:
        """A line about how many validation samples are drawn; None if all are measured and compared."""
        return drawn_line(trainer, self.source_data, self.rows)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "test")

    # ---- resume ----

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = dict(state_dict["before"])
