"""Watches what is kept, in every run: the source metric where there is source data, drift always."""

import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from sft_lightning.data.base import SFTDataModule
from sft_lightning.errors import UserError
from sft_lightning.modules.base import SFTModule
from sft_lightning.modules.teacher import Teacher
from sft_lightning.networks.base import Output
from sft_lightning.retention import Answers, DriftMeter, evaluate, weight_drift
from sft_lightning.tasks import Batch, Task, TaskInfo, make_task


class RetentionMonitor(Callback):
    """Logs `retention/*` and `drift/*` before training, at each validation, and when testing.

    The source metric is that of the kept source head (or of the shared output space) on the source task's own data: its
    validation split while fitting, its test split when testing. Forgetting = source metric before − after, so it is
    positive where something was lost, in the metric's own unit (reversed for metrics where less is better). The metric
    before is the pretrained network's, also after a resume. The trainer's limit_val_batches and limit_test_batches hold
    for the source data too.

    Args:
        source: The source task's data; none measures drift alone.
        drift_rows: Validation samples on which student and teacher are compared.
    """

    def __init__(self, source: SFTDataModule | None = None, drift_rows: int = 1024) -> None:
        self.source, self.drift_rows = source, drift_rows
        self.before: dict[str, float] = {}
        self.seconds = 0.0
        self.said: dict[str, Answers] | None = None
        """Where a dict, what classifiers say while a split is measured is kept in it: 'source before' and 'source after'
        on the source data, 'head before' and 'head after' of the kept source head on the target's inputs"""
        self._task: Task | None = None
        self._meter: DriftMeter | None = None
        self._rows_left = 0
        self._cache: dict[tuple[int, ...], Output] = {}
        self._forget_answers()
        self._test_before: dict[str, float] = {}
        self._loaders: dict[str, DataLoader[Batch]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """What the teacher said is kept for one fit or test: the next may be on other data."""
        self._forget_answers()
        self.said = None

    def _forget_answers(self) -> None:
        self._cache.clear()
        self._cache_room = 256 << 20

    # ---- the source task's data ----

    @property
    def source_info(self) -> TaskInfo | None:
        """The source task, once its data is loaded."""
        return None if self._task is None else self._task.info

    def _load_source(self, trainer: Trainer, module: LightningModule) -> None:
        """Loads the source data and checks that the source head speaks of the same classes."""
        if self.source is None or self._task is not None:
            return
        assert isinstance(module, SFTModule) and module.network is not None
        network = module.network
        self.source.trainer = trainer
        self.source.setup("fit")
        info = network.task if network.shares_outputs else self.source.task_info
        assert info is not None
        if not network.shares_outputs:
            if network.source_head is None:
                raise UserError(
                    "retention: the network has no source head to ask: pretrained weights without an output layer, "
                    "pretrained: null, or keep_source_head: false; drop retention or give weights with a head"
                )
            outputs = next(iter(network.source_head.parameters())).shape[0]
            if outputs != info.num_outputs:
                raise UserError(
                    f"retention: the source head has {outputs} outputs, the retention data {info.num_outputs} classes"
                )
            labels = network.source_labels
            if labels and info.labels and labels != info.labels:
                raise UserError(
                    f"retention: the source head's classes are {labels}, the retention data's {info.labels}"
                )
        config = dict(network.input_config)
        self.source.bind(network)
        network.input_config = config  # what travels with the network is the target's view, not the source's
        self._task = make_task(info)

    def _source_metrics(self, trainer: Trainer, module: SFTModule, split: str, of_teacher: bool) -> dict[str, float]:
        assert self.source is not None and self._task is not None
        assert module.network is not None and module.teacher is not None
        network = module.teacher.network if of_teacher else module.network
        began = time.perf_counter()

        def score(x: dict[str, Tensor]) -> Tensor:
            output: Output = network(x)
            logits = output.logits if network.shares_outputs else output.source_logits
            assert logits is not None
            return logits

        if split not in self._loaders:
            self._loaders[split] = self.source.loader(split, trainer.global_rank, trainer.world_size)
        loader = limited(trainer, self._loaders[split], split)
        answers = self._answers("source before" if of_teacher else "source after")
        values = evaluate(trainer, module, loader, self.source.receive, self._task, score, answers)
        self.seconds += time.perf_counter() - began
        return {f"retention/{k}": v for k, v in values.items()}

    def _answers(self, name: str) -> Answers | None:
        """Where to keep what is said of the source samples; None where nobody asked, or where no class is said."""
        if self.said is None or self._task is None or self._task.name != "classification":
            return None
        return self.said.setdefault(name, Answers())

    def _with_forgetting(self, now: dict[str, float], before: dict[str, float]) -> dict[str, float]:
        assert self._task is not None
        metric, better = self._task.primary
        lost = before[f"retention/{metric}"] - now[f"retention/{metric}"]
        return {**now, "retention/forgetting": lost if better == "max" else -lost}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._load_source(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._load_source(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._load_source(trainer, pl_module)

    # ---- before training ----

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Step 0: both columns before anything was learned."""
        assert isinstance(pl_module, SFTModule)
        assert pl_module.network is not None
        if trainer.limit_val_batches == 0:
            return
        if not self.before and trainer.global_step == 0:
            self.before |= self._target_before(trainer, pl_module)
        if self._task is not None and f"retention/{self._task.primary[0]}" not in self.before:
            source = self._source_metrics(trainer, pl_module, "val", of_teacher=True)
            self.before |= self._with_forgetting(source, source)
        if trainer.global_step == 0:
            for logger in trainer.loggers:
                logger.log_metrics(dict(self.before), step=0)

    def _target_before(self, trainer: Trainer, module: SFTModule) -> dict[str, float]:
        """The target metric of the new head, and the drift, which a student that is its teacher does not have."""
        network, data = module.network, getattr(trainer, "datamodule", None)
        if not isinstance(data, SFTDataModule):
            return {}
        assert network is not None
        assert module.task is not None
        began, left = time.perf_counter(), rows_of_a_rank(self.drift_rows, trainer)
        meter = DriftMeter(network.shares_outputs) if module.teacher is not None else None

        def score(x: dict[str, Tensor]) -> Tensor:
            nonlocal left
            output: Output = network(x)
            if meter is not None and module.teacher is not None and any_left(left, trainer, module.teacher):
                meter.add(output, module.teacher(x))
                left -= len(next(iter(x.values())))
            return output.logits

        loader = limited(trainer, data.loader("val", trainer.global_rank, trainer.world_size), "val")
        values = {f"val/{k}": v for k, v in evaluate(trainer, module, loader, data.receive, module.task, score).items()}
        if meter is not None and module.teacher is not None:
            shared = network.shared_parameters()
            values |= {**weight_drift(list(shared.values()), module.teacher.starts(list(shared))), **meter.values()}
        self.seconds += time.perf_counter() - began
        return values

    # ---- drift, on the validation (or test) batches as they pass ----

    def _start(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, SFTModule) and module.network is not None
        self._meter = DriftMeter(module.network.shares_outputs) if module.teacher is not None else None
        self._rows_left = rows_of_a_rank(self.drift_rows, trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, pl_module)

    def _compare(self, trainer: Trainer, module: LightningModule, student: Any, batch: Batch, number: int) -> None:
        assert isinstance(module, SFTModule)
        if self._meter is None or not isinstance(student, Output) or module.teacher is None:
            return
        if not any_left(self._rows_left, trainer, module.teacher):
            return
        began = time.perf_counter()
        key = (
            number,
            *(batch.get("rows") or batch["index"].tolist()),
        )  # a sample that cannot be read this time may be missing
        teacher = self._cache.get(key)
        if teacher is None:
            with trainer.precision_plugin.forward_context():
                teacher = module.teacher(batch["x"])
            room = sum(t.numel() * t.element_size() for t in teacher if t is not None)
            # Validation views are the same each time, so the teacher's answers are too. One that is sharded is asked by all
            # ranks or none, and they may not run out of room together.
            if room <= self._cache_room and not module.teacher.sharded:
                self._cache[key] = teacher
                self._cache_room -= room
        self._meter.add(student, teacher)
        if self.said is not None and module.network is not None and not module.network.shares_outputs:
            for name, output in (("head before", teacher), ("head after", student)):
                if output.source_logits is not None and output.source_logits.shape[-1] > 1:
                    self.said.setdefault(name, Answers()).add(batch, output.source_logits, known=False)
        self._rows_left -= len(batch["index"])
        self.seconds += time.perf_counter() - began

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
        assert isinstance(module, SFTModule)
        if module.teacher is None or self._meter is None or module.network is None:
            return
        began = time.perf_counter()
        shared = module.network.shared_parameters()
        values = {**weight_drift(list(shared.values()), module.teacher.starts(list(shared))), **self._meter.values()}
        self.seconds += time.perf_counter() - began
        if self._task is not None and self.source is not None and split in self.source.splits:
            before = self.before
            if split == "test":
                if not self._test_before or self.said is not None:
                    self._test_before = self._source_metrics(trainer, module, split, of_teacher=True)
                before = self._test_before
            elif self._answers("source before") is not None:  # of validation the metrics alone are kept
                self._source_metrics(trainer, module, split, of_teacher=True)
            now = self._source_metrics(trainer, module, split, of_teacher=False)
            values |= self._with_forgetting(now, before) if f"retention/{self._task.primary[0]}" in before else now
        module.log_dict(values)
        self._meter = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "test")

    # ---- kept across a resume ----

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = dict(state_dict["before"])


def rows_of_a_rank(rows: int, trainer: Trainer) -> int:
    """A rank's share of so many rows, rounded up."""
    return -(-rows // trainer.world_size)


def any_left(rows: int, trainer: Trainer, teacher: Teacher) -> bool:
    """Whether rows are left to compare. A sharded teacher is asked by all ranks or by none, and they may have had batches
    of different sizes.
    """
    if not teacher.sharded:
        return rows > 0
    most: Tensor = trainer.strategy.reduce(torch.tensor(rows, device=trainer.strategy.root_device), reduce_op="max")
    return int(most) > 0


def limited(trainer: Trainer, loader: DataLoader[Batch], split: str) -> Iterable[Batch]:
    """As many batches as the trainer's limit for validation or testing lets through.

    A generator, so that iterating begins, and takes its random number, where `evaluate` guards the random state.
    """
    limit: int | float = getattr(trainer, f"limit_{split}_batches")
    yield from islice(loader, limit if isinstance(limit, int) else max(1, int(limit * len(loader))))
