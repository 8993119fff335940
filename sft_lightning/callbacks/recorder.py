"""Writes `run.json` during a run: its facts at the start, every metric before, after and at best.ckpt, its outcome."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.callbacks.step_memory import StepMemory
from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.findings import in_training
from sft_lightning.data.fingerprints import fingerprints
from sft_lightning.evaluation.known_metrics import for_record, info_of
from sft_lightning.evaluation.retention import RetentionMonitor
from sft_lightning.evaluation.selection import Candidate, selecting
from sft_lightning.modules.fused import kernel_of
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.runs import MetricsLog, Record
from sft_lightning.runs.record import upgrade
from sft_lightning.runs.same_data import note, recorded, refusal
from sft_lightning.runs.wandb_log import WandbLog

KEY = "run_record"


class RunRecorder(Callback):
    """Keeps `run.json`.

    Args:
        record: The record to write; it already holds the facts known before data and network are built.
        select_by: Metric that selects best.ckpt; by default the task's first on validation.
        needs_test: The run is tested after fit, so that it needs a test split.
        goes_on: Fit resumes from this run's own checkpoint, and so does the record.
        monitor: The run's retention monitor, whose numbers and source data are recorded.
    """

    def __init__(
        self,
        record: Record,
        select_by: str | None = None,
        needs_test: bool = False,
        goes_on: bool = False,
        monitor: RetentionMonitor | None = None,
    ) -> None:
        self.record, self.select_by, self.needs_test, self.goes_on = record, select_by, needs_test, goes_on
        self.monitor = monitor
        self._began = time.perf_counter()
        self._best: Candidate | None = None
        self._fitting = False
        self.closing = False  # set for the validation at the end of a fit, if the last one came earlier
        self.measured_at: int | None = None
        self.is_best = False  # whether the last validation was the best, until best.ckpt is written
        self.start_competes = False  # whether best.ckpt is step 0's network until a validation is better
        self._checkpoint: tuple[str, int] | None = None  # the measured checkpoint: name of its file, step
        self.began = False  # whether training has begun
        self._found: dict[str, dict[str, Any]] = {}  # `about_data` of the run's data and of the source task's
        self._rewind: tuple[int, dict[str, Any]] | None = None
        self._train: dict[str, float] = {}  # last values of train/*
        self._seconds = 0.0  # of the fits before a resume

    def _about(self, trainer: Trainer, module: TunedModule) -> dict[str, Any]:
        data, network = trainer.datamodule, module.network  # type: ignore[attr-defined]
        assert network is not None
        counts = {
            "total": network.parameters(),
            "encoder": network.encoder.parameters(),
            "head": network.head.parameters(),
            "pretrained": network.shared_parameters().values(),
            "new": network.new_parameters().values(),
        }
        if network.adapters:
            counts["adapters"] = network.adapter_parameters().values()
        numbers = {name: sum(p.numel() for p in parameters) for name, parameters in counts.items()}
        numbers["trainable"] = module.trainable.count(module.trainable.allowed)
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
        if trainer.optimizers and not module.solves:
            made = trainer.optimizers[0]
            about["optimizer"] = {"name": type(made).__name__, "kernel": kernel_of(made) or None}
        self._found = self._found or self.data_found(trainer)
        for part, held in self._found.items():
            first = recorded(self.record.content, part)
            about[part] = {**held, "fingerprint": {**held["fingerprint"], **first}}  # the first fingerprint is kept
        if self.monitor and self.monitor.sets:
            about["retention_sets"] = {name: about_data(m.source.data) for name, m in self.monitor.sets.items()}
        if isinstance(data, SFTDataModule) and (skipped := data.skipped_report(gather=False)):
            about["data"]["skipped"] = skipped
        return about

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._fitting = stage == "fit"
        self._began, self._checkpoint = time.perf_counter(), None
        if isinstance(pl_module, TunedModule):
            pl_module.select_by = self.select_by
        data = trainer.datamodule  # type: ignore[attr-defined]
        if self._fitting and self.needs_test and isinstance(data, SFTDataModule) and "test" not in data.splits:
            raise UserError(
                "test_after_fit", f"{type(data).__name__} has no test split", "give one, or set test_after_fit false"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses to resume a run with other data than it began with, before anything of it is changed."""
        if trainer.is_global_zero:
            self._found = self.data_found(trainer)
            why = refusal(self.record.content, prints_of(self._found)) if self.goes_on else None
            if why is not None:
                raise why
        if self._rewind is not None and (log := metrics_log(trainer)) is not None:
            log.rewind(*self._rewind)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TunedModule)
        before = dict(self.monitor.before) if self.monitor else {}
        by, fresh = self.by(pl_module)[0], self._best is None and trainer.global_step == 0
        self.start_competes = fresh and competes(pl_module, before, by)
        if not trainer.is_global_zero:
            return
        about = self._about(trainer, pl_module)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLog):
                logger.describe({**about, "git": self.record.content.get("git")})
        for name, value in before.items():
            self.record.content["metrics"].setdefault(name, {})["before"] = value
        if self.start_competes:
            self._select(pl_module, before, step=0, epoch=0)
            self.is_best = False  # all ranks write its file together, see Checkpoints
        self._describe_metrics(trainer, pl_module)
        self.record.update(**about)
        self.began = True

    def by(self, module: TunedModule) -> tuple[str, str]:
        """(metric, 'max' or 'min') that chooses best.ckpt."""
        assert module.info is not None and module.network is not None
        network = module.network
        return selecting(module.info, self.select_by, network.task if network.shares_outputs else network.source_task)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_other(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "validate" and not self.closing:
            self._start_other(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start_other(trainer, pl_module)

    def _start_other(self, trainer: Trainer, module: LightningModule) -> None:
        """Records which checkpoint is measured, on which data, and a note if fit recorded other data."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero or not isinstance(module, TunedModule) or not isinstance(data, SFTDataModule):
            return
        if "parameters" not in self.record.content:
            self.record.update(**self._about(trainer, module))
        command = str(trainer.state.fn.value) if trainer.state.fn else ""
        split = {"validate": "val", "test": "test"}.get(command, "predict" if "predict" in data.splits else "test")
        found = prints_of(self._found or self.data_found(trainer, split))
        file, step = self._checkpoint or (None, 0)
        about: dict[str, Any] = {"checkpoint": file, "step": step}
        for part, name in (("data", "fingerprint"), ("retention", "retention_fingerprint")):
            if split in found.get(part, {}):
                about[name] = {split: found[part][split]}
        if (other := note(self.record.content, found, [split])) is not None:
            about["note"] = other
        self.record.content.setdefault("measured", {})[command] = about

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, pl_module, testing=True)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.record.content.get("data", {}).get("skipped", {}).pop("predict", None)  # of an earlier file
        self.note_skipped(trainer)

    def data_of(self, trainer: Trainer) -> dict[str, SFTDataModule]:
        """The run's 'data', and 'retention' if there is source data."""
        source = self.monitor.source_data if self.monitor else None
        parts = {"data": trainer.datamodule, "retention": source}  # type: ignore[attr-defined]
        return {name: data for name, data in parts.items() if isinstance(data, SFTDataModule)}

    def data_found(self, trainer: Trainer, only: str | None = None) -> dict[str, dict[str, Any]]:
        """`about_data` of each of `data_of` that is loaded, for one split or all."""
        parts = {name: data for name, data in self.data_of(trainer).items() if data.splits}
        found = {name: about_data(data, only) for name, data in parts.items()}
        if only is None and len(found) == 2 and (both := in_training(parts["retention"].splits, parts["data"].splits)):
            found["retention"]["in_target_training"] = both
        return found

    @property
    def source_task(self) -> TaskInfo | None:
        """The source task that is measured; None until its data is loaded."""
        task = self.monitor.source_task if self.monitor else None
        return None if task is None else task.info

    def note_skipped(self, trainer: Trainer) -> None:
        """Records the samples of data and retention data that any rank skipped so far. Every rank must call this."""
        for name, part in self.data_of(trainer).items():
            if skipped := part.skipped_report():
                self.record.content.setdefault(name, {}).setdefault("skipped", {}).update(skipped)

    def _note(self, trainer: Trainer, module: LightningModule, testing: bool = False) -> None:
        self.note_skipped(trainer)
        assert isinstance(module, TunedModule)
        assert module.info is not None
        if not trainer.is_global_zero:
            return
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if "/" in k and not k.startswith("train/")}
        counts = {k.removeprefix("n/"): int(values.pop(k)) for k in list(values) if k.startswith("n/")}
        content = self.record.content
        if trainer.state.fn == "validate" and not self.closing:
            # `n` keeps the counts of the fit's own numbers, which this validation does not change.
            content["n"] = counts | content.get("n", {})
            content["measured"]["validate"]["n"] = counts
            content["validate"] = {k: v for k, v in values.items() if not k.startswith("test/")}
            self._describe_metrics(trainer, module)
            self.record.write()
            return
        content.setdefault("n", {}).update(counts)
        if testing:
            # Values of the test split (target, source and drift) are kept apart from those of validation.
            content["test"] = {k: v for k, v in values.items() if not k.startswith("val/")}
            file, step = self._checkpoint or ("", trainer.global_step)
            which = ("final", "best") if file == "best.ckpt" else ("final",)
            for name in [k for k in values if k.startswith("test/")]:
                said = dict.fromkeys(which, values[name]) | {f"{w}_step": step for w in which}
                content["metrics"][name] = said
        else:
            for name, value in values.items():
                known = info_of(name, module.info, self.source_task)
                self.record.metric(name, value, trainer.global_step, known.better if known else None)
            self.measured_at = trainer.global_step
            self._select(module, values, trainer.global_step, epochs_begun(trainer) - 1)
        self._describe_metrics(trainer, module)
        self.record.write()

    def _describe_metrics(self, trainer: Trainer, module: TunedModule) -> None:
        """Records the better direction and unit of each metric, and the tasks' primary metrics."""
        if module.info is not None:
            self.record.content |= for_record(self.record.content, module.info, self.source_task)

    def _select(self, module: TunedModule, values: dict[str, float], step: int, epoch: int) -> None:
        """Records every metric's value at a validation, if it is the best so far."""
        name, mode = self.by(module)
        found = Candidate.of(values, name)
        self.is_best = found is not None and found.ahead(self._best, mode)
        if self.is_best:
            self._best = found
            self.record.select(values, name, step, epoch)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Context of the validation at the end of a fit, which measures and records as those within it."""
        self.closing = True
        if self.monitor is not None:
            self.monitor.closing = True
        try:
            yield
        finally:
            self.closing = False
            if self.monitor is not None:
                self.monitor.closing = False

    def judge_the_start(self, trainer: Trainer, module: TunedModule) -> None:
        """Records `never_beat_start`: no validation was better than the network before training, if that was measured."""
        name, mode = self.by(module)
        start = Candidate.of(self.monitor.before, name) if self.monitor and name.startswith("val/") else None
        if start is not None and self._best is not None:
            self.record.content["never_beat_start"] = not self._best.ahead(start, mode)

    def end_of_fit(self, trainer: Trainer) -> None:
        """Records results at the end of training, also if a resumed run had nothing left to train."""
        self._gather(trainer)
        self.note_skipped(trainer)
        for name, value in self._train.items():
            entry = self.record.content["metrics"].setdefault(name, {})
            entry["final"], entry["final_step"] = value, last_logged(trainer)
        times = self.record.content.setdefault("times", {})
        times["fit_s"] = round(self._elapsed(), 3)
        times["retention_s"] = round(self.monitor.seconds, 3) if self.monitor else 0.0
        times["target_before_s"] = round(self.monitor.seconds_before, 3) if self.monitor else 0.0
        module = trainer.lightning_module
        if trainer.is_global_zero:
            if isinstance(module, TunedModule):
                self._describe_metrics(trainer, module)
            self.record.update(steps=trainer.global_step, epochs=epochs_begun(trainer))
            for memory in (c for c in trainer.callbacks if isinstance(c, StepMemory)):  # type: ignore[attr-defined]
                if found := memory.record(trainer):
                    self.record.update(step_memory=found)
            if isinstance(module, TunedModule) and module.found:
                self.record.update(solved=module.found)

    def _gather(self, trainer: Trainer) -> None:
        self._train |= {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._began

    # ---- resume ----

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Saves the record and the history's open row; a resumed run overwrites the history after this step."""
        self._gather(trainer)
        log = metrics_log(trainer)
        checkpoint[KEY] = {
            "metrics": self.record.content["metrics"],
            "selected": self.record.content.get("selected"),
            "best": self._best.value if self._best else None,
            "best_loss": self._best.loss if self._best else None,
            "is_best": self.is_best,
            "measured_at": self.measured_at,
            "train": self._train,
            "seconds": self._elapsed(),
            "row": log.row() if log else {},
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.ckpt_path:
            path = Path(str(trainer.ckpt_path)).resolve()
            ours = path.parent.parent == self.record.path.parent.resolve()
            self._checkpoint = (path.name if ours else str(path), int(checkpoint["global_step"]))
        held = checkpoint.get(KEY)
        if held is None or not self._fitting or not self.goes_on:  # testing a checkpoint restores callbacks too
            return
        self.record.content["metrics"] = held["metrics"]
        if held["selected"]:
            self.record.content["selected"] = held["selected"]
        else:
            self.record.content.pop("selected", None)
        upgrade(self.record.content)
        if held["best"] is not None:
            loss = held.get("best_loss", self.record.content["metrics"].get("val/loss", {}).get("best"))
            self._best = Candidate(held["best"], loss)
        self.measured_at = held["measured_at"]
        self.is_best = held["is_best"]  # the run may have been killed before it wrote best.ckpt
        self._train, self._seconds = dict(held["train"]), held["seconds"]
        self._rewind = checkpoint["global_step"], held["row"]


def about_data(data: SFTDataModule, only: str | None = None) -> dict[str, Any]:
    """A record's entry about data: a description, numbers of samples, and hashes that reveal a change."""
    splits = {name: split for name, split in data.splits.items() if only in (None, name)}
    return {
        "description": data.describe(),
        "sizes": {name: len(split) for name, split in splits.items()},
        **fingerprints(splits),
        **({} if only else remarked(data)),
    }


def prints_of(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Only the fingerprints."""
    return {part: about["fingerprint"] for part, about in found.items()}


def remarked(data: SFTDataModule) -> dict[str, Any]:
    """Remarks on data, if there are any: settings that reading guessed, repeated samples and the like."""
    return {**({"notes": data.notes} if data.notes else {}), **data.found()}


def metrics_log(trainer: Trainer) -> MetricsLog | None:
    """The run's history, if it keeps one."""
    return next((x for x in trainer.loggers if isinstance(x, MetricsLog)), None)


def competes(module: TunedModule, before: dict[str, float], by: str) -> bool:
    """Whether the network before training may become best.ckpt.

    It may if its pretrained outputs already do the task (language models), and if a validation metric selects: by a metric
    of the source task, the untrained network would always win.
    """
    network = module.network
    assert network is not None
    return network.shares_outputs and network.pretrained is not None and by.startswith("val/") and by in before


def last_logged(trainer: Trainer) -> int:
    """The last optimizer step that logged `train/*`: each `log_every_n_steps`th does, and the first."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return (trainer.global_step // every * every if every else 0) or min(1, trainer.global_step)


def epochs_begun(trainer: Trainer) -> int:
    """Number of epochs with at least one trained step; the last may be unfinished."""
    return int(trainer.fit_loop.epoch_progress.current.ready)
