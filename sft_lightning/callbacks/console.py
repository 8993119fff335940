"""Prints what a run does: its derived settings at the start, target and source metrics during it, a table at the end."""

import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.console import Console as Terminal
from rich.table import Table

from sft_lightning.callbacks.ema import EMA
from sft_lightning.callbacks.lpft import LPFT
from sft_lightning.callbacks.pulse import Pulse
from sft_lightning.callbacks.step_memory import memory_line
from sft_lightning.core.metric_info import is_source_metric
from sft_lightning.core.wording import plural
from sft_lightning.data.bad_samples import skipped_lines
from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.findings import in_training
from sft_lightning.evaluation.retention import RetentionMonitor
from sft_lightning.modules.freeze import moving_batchnorms
from sft_lightning.modules.fused import kernel_of
from sft_lightning.modules.trainable import Change
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.runs.metrics_log import named_by_split


def stepped_by(trainer: Trainer) -> str:
    """`AdamW (fused)`: the optimizer, and the kernel that steps the weights if it is one of torch."""
    optimizer = trainer.optimizers[0]
    kernel = kernel_of(optimizer)
    return f"{type(optimizer).__name__}{f' ({kernel})' if kernel else ''}"


def shown_metrics(module: TunedModule, values: dict[str, Any]) -> dict[str, float]:
    """The few metrics that fit on one line: of the target, of the source task, drift."""
    assert module.task is not None
    wanted = [f"val/{module.task.primary.name}", "val/loss"]
    kept = [n for n in values if is_source_metric(n)]
    wanted += kept[:1] or (["retention/agreement"] if "retention/agreement" in values else [])
    wanted += [n for n in ("drift/kl", "drift/source_mse", "drift/weights_relative") if n in values][:1]
    return {n: float(values[n]) for n in wanted if n in values}


class Bar(RichProgressBar):
    """Rich progress bar with target and retention metrics; it is drawn at most five times a second, even in short epochs."""

    SECONDS = 0.2

    def __init__(self) -> None:
        super().__init__(refresh_rate=10, leave=False)
        self._drawn = 0.0

    def refresh(self, hard: bool = False) -> None:
        now = time.monotonic()
        if hard or now - self._drawn >= self.SECONDS:
            self._drawn = now
            super().refresh(hard)

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        assert isinstance(pl_module, TunedModule)
        return {n: f"{v:.4g}" for n, v in shown_metrics(pl_module, trainer.callback_metrics).items()}


class Console(Callback):
    """Prints plain lines during a run, and a table at its end.

    Args:
        run: The run's path, printed last.
        quiet: Print only the path.
        bar: A progress bar is shown, so that validations print no lines.
        pulse: Waits another minute after each printed line.
        monitor: The run's retention monitor, whose source data is described.
    """

    def __init__(
        self,
        run: str,
        quiet: bool = False,
        bar: bool = False,
        pulse: Pulse | None = None,
        monitor: RetentionMonitor | None = None,
    ) -> None:
        self.run, self.quiet, self.bar, self.pulse, self.monitor = run, quiet, bar, pulse, monitor
        self.terminal = Terminal(file=sys.stdout, highlight=False, soft_wrap=True)

    def say(self, line: str) -> None:
        if not self.quiet:
            print(line, flush=True)
        if self.pulse is not None:
            self.pulse.heard()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, TunedModule)
        network, data = pl_module.network, trainer.datamodule  # type: ignore[attr-defined]
        assert network is not None
        if isinstance(data, SFTDataModule):
            self.say(f"data       {data.describe()}")
            for remark in data.remarks():
                self.say(f"           {remark}")
        monitor = self.monitor
        retained = None if monitor is None else monitor.source_data
        if retained is not None and retained.splits:
            self.say(f"retention  {retained.describe()}")
            if isinstance(data, SFTDataModule):
                for split, count in in_training(retained.splits, data.splits).items():
                    held = len(retained.splits[split])
                    self.say(
                        f"           {count:,} of {held:,} {split} retention samples are in the target's training data"
                    )
        if monitor is not None and (line := monitor.says_of_samples(trainer)):
            self.say(line)
        total = sum(p.numel() for p in network.parameters())
        trained = pl_module.trainable.count(pl_module.trainable.allowed)
        source = f"; kept source head of {out_features(network.source_head)}" if network.source_head is not None else ""
        self.say(
            f"network    {network.name}: {total:,} parameters, {trained:,} trained, "
            f"{plural(len(network.layers()), 'layer')}{source}"
        )
        for line in network.report.lines():
            self.say(f"           {line}")
        anchor = ", ".join(
            f"{k} {pl_module.hparams[k]}" for k in pl_module.anchor_settings if pl_module.hparams[k] is not None
        )
        self.say(f"variant    {type(pl_module).__name__} ({pl_module.fidelity}){': ' + anchor if anchor else ''}")
        if pl_module.solves:
            return
        if pl_module.anchor_settings and (moving := moving_batchnorms(pl_module)):
            self.say(
                f"           note: the statistics of {moving} BatchNorm layer{'s' * (moving > 1)} change with every batch, so "
                "the anchor is not 0 at the start, and outputs drift even if weights do not change; "
                "freeze_batchnorm_stats true keeps the statistics"
            )
        for note in pl_module.notes():
            self.say(f"           note: {note}")
        for average in (c for c in trainer.callbacks if isinstance(c, EMA)):  # type: ignore[attr-defined]
            if (said := average.note(trainer)) is not None:
                self.say(f"           note: {said}")
        for probe in (c for c in trainer.callbacks if isinstance(c, LPFT)):  # type: ignore[attr-defined]
            self.say(f"           note: {probe.note()}")
        pl_module.trainable.listen("console", lambda change: self._changed(pl_module, change))
        accumulate, ranks = trainer.accumulate_grad_batches, trainer.world_size
        steps = trainer.estimated_stepping_batches
        size = getattr(data, "batch_size", None)
        if size:
            self.say(
                f"steps      {steps:g} of {size} samples (= {plural(ranks, 'rank')} × "
                f"{plural(accumulate, 'micro-batch', 'es')} × {size // (ranks * accumulate)}), precision {trainer.precision}, "
                f"{stepped_by(trainer)}"
            )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints what is predicted on, and how it was read."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero and isinstance(data, SFTDataModule) and "predict" in data.splits:
            self.say(f"data       {data.describe()}")
            for note in data.notes:
                self.say(f"           {note}")

    def _changed(self, module: TunedModule, change: Change) -> None:
        trainable, factor = module.trainable, module.trainable.lr_factor
        rates = f", at {factor:g} × the learning rates" if factor != 1.0 else ""
        self.say(
            f"step {change.step}  trains {trainable.count():,} of {trainable.count(trainable.allowed):,} parameters{rates}"
        )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints what a variant that solves for its weights has found."""
        assert isinstance(pl_module, TunedModule)
        if trainer.is_global_zero and pl_module.found and (line := pl_module.said()):
            self.say(f"solved     {line}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero or self.bar or trainer.state.fn != "fit":
            return
        assert isinstance(pl_module, TunedModule)
        shown = "  ".join(f"{n} {v:.4f}" for n, v in shown_metrics(pl_module, trainer.callback_metrics).items())
        self.say(f"epoch {trainer.current_epoch + 1:>3}  step {trainer.global_step:>6}  {shown}")

    def finish(self, command: str, record: dict[str, Any]) -> None:
        """Prints the command's results from the run's record, then the run's path."""
        if not self.quiet:
            for line in summary(record) if command == "fit" else measured(command, record):
                if isinstance(line, Table):
                    self.terminal.print(line)
                else:
                    self.say(line)
            for part in ("data", "retention"):
                for line in skipped_lines(record.get(part, {}).get("skipped", {})):
                    self.say(line)
        print(f"run        {self.run}", flush=True)


def out_features(head: Any) -> str:
    """The size of a kept head: '10 outputs'."""
    parameters = list(head.parameters())
    return plural(parameters[0].shape[0], "output") if parameters else "unknown size"


def summary(record: dict[str, Any]) -> list[Any]:
    """Lines and a table with a run's results, from its record."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, side in (("metric", "left"), ("before", "right"), ("after", "right"), ("at best.ckpt", "right")):
        table.add_column(column, justify=side)  # type: ignore[arg-type]
    groups = ("val/", "retention/", "drift/")
    rows = [(n, m) for g in groups for n, m in record["metrics"].items() if n.startswith(g)]
    for name, entry in rows:
        table.add_row(name, *(four_digits(entry.get(k)) for k in ("before", "final", "best")))
    lines: list[Any] = ["", table, ""] if rows else []
    if selected := record.get("selected"):
        chosen = [(n, m["best"]) for n, m in rows if "best" in m and (n == selected["by"] or is_source_metric(n))]
        lines.append(
            f"best.ckpt  step {selected['step']}, by {selected['by']}: "
            + ", ".join(f"{n} {four_digits(v)}" for n, v in chosen)
        )
    lines += never_better(record)
    lines += measured("test", record)
    times = record.get("times", {})
    if times.get("fit_s"):
        share = times["retention_s"] / times["fit_s"]
        before = times.get("target_before_s")
        lines.append(
            f"time       {times['fit_s']:.1f} s, of which retention and drift {times['retention_s']:.2f} s ({share:.1%})"
            + (f", the target's metrics before training {before:.2f} s" if before else "")
        )
    if "step_memory" in record:
        lines.append(memory_line(record["step_memory"]))
    return lines


def measured(command: str, record: dict[str, Any]) -> list[str]:
    """One line with what `test` or `validate` measured: target, then source task, then drift.

    A note comes first if that was not on the data that fit recorded.
    """
    other = record.get("measured", {}).get(command, {}).get("note")
    notes = [f"{'note':<11}{command}: {other}"] if other else []
    if command == "predict":
        return [*notes, f"{'predict':<11}predictions.jsonl"]
    values = record.get(command)
    if not values:
        return []
    order = ("val/", "test/", "retention/", "drift/")
    shown = sorted((n for n in values if n.startswith(order)), key=lambda n: order.index(n.partition("/")[0] + "/"))
    named = named_by_split({n: values[n] for n in shown})
    return [*notes, f"{command:<11}" + ", ".join(f"{n} {four_digits(v)}" for n, v in named.items())]


def never_better(record: dict[str, Any]) -> list[str]:
    """A line if no validation was better than the network before training."""
    if not record.get("never_beat_start"):
        return []
    by, step = record["selected"]["by"], record["selected"]["step"]
    entry = record["metrics"][by]
    start = f"{'note':<11}no validation was better than step 0, where {by} was {four_digits(entry['before'])}: "
    if not step:
        return [start + "best.ckpt and model/ are the pretrained network itself"]
    return [start + f"it is {four_digits(entry['best'])} at best.ckpt"]


def four_digits(value: Any) -> str:
    """Four decimals, or four significant digits of a large value; an empty cell for None."""
    if value is None:
        return ""
    value = float(value)
    return "nan" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"
