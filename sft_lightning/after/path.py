"""Measures a finished run's network along the way from its pretrained weights to its tuned ones."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.after.asked import INTERPOLATE, Asked
from sft_lightning.after.batchnorm import reestimate
from sft_lightning.after.choose import Point, Rule
from sft_lightning.after.ways import WAYS, Ends
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.data.base import SFTDataModule
from sft_lightning.evaluation.known_metrics import info_of
from sft_lightning.evaluation.retention import RetentionMonitor
from sft_lightning.evaluation.selection import selecting
from sft_lightning.modules.base import SFTModule
from sft_lightning.runs.record import strict
from sft_lightning.tasks import make_task

KEPT = ("retention/agreement", "drift/source_correlation", "drift/weights_relative")
"""What says how much was kept where the source task was not measured; the first that is there"""


class Walk(Callback):
    """Measures points one after another. It must stand before the monitor, so that it moves the network first.

    Args:
        asked: What the user asks.
        monitor: Measures what is kept.
    """

    def __init__(self, asked: Asked, monitor: RetentionMonitor) -> None:
        self.asked, self.monitor = asked, monitor
        monitor.keeps = True
        self.ends: Ends | None = None
        self.alpha = 0.0
        self.samples: int | None = None
        """Training samples from which BatchNorm's statistics were estimated; None if they were not"""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the network at the point, on its device."""
        assert isinstance(pl_module, SFTModule) and pl_module.network is not None
        network, asked = pl_module.network, self.asked
        if self.ends is None:
            if pl_module.teacher is None:
                raise UserError(
                    "path", "the run started from random weights, so it has no pretrained end", "name another run"
                )
            self.ends = Ends(network, pl_module.teacher.network)
            if not self.ends.moved:
                raise UserError(
                    "path", "the run changed no pretrained weight, so that all points are equal", "name another run"
                )
            if asked.batchnorm is not None and not self.ends.moved_norms():
                raise UserError(
                    "--batchnorm", "has no effect, because tuning changed no running statistics", "leave it out"
                )
        factors = WAYS[asked.how](network, self.alpha)
        self.ends.go(factors, self.alpha)
        norms = list(self.ends.moved_norms().values())
        if norms and asked.batchnorm != INTERPOLATE and set(factors.values()) not in ({0.0}, {1.0}):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            self.samples = reestimate(trainer, pl_module, data, norms)

    def measure(self, trainer: Trainer, module: SFTModule, data: SFTDataModule, checkpoint: Path) -> list[Point]:
        """All points; the checkpoint holds the tuned network. Afterwards the network is at the last point."""
        points, held = list[Point](), str(checkpoint)
        for alpha in self.asked.alphas:
            self.alpha = alpha
            first: dict[str, Any] = {} if points else {"ckpt_path": held, "weights_only": True}
            trainer.validate(module, datamodule=data, verbose=False, **first)
            if not trainer.callback_metrics:
                raise UserError(
                    "trainer.limit_val_batches",
                    "is 0 in the run's config, so that there is nothing to choose a point by",
                    "repeat the run with validation",
                )
            values = {
                n: float(v) for n, v in trainer.callback_metrics.items() if "/" in n and not n.startswith("train/")
            }
            counts = {n.removeprefix("n/"): int(values.pop(n)) for n in list(values) if n.startswith("n/")}
            points.append(Point(alpha, values, counts))
        return points

    def place(self, trainer: Trainer, module: SFTModule, data: SFTDataModule, alpha: float) -> None:
        """Puts the network at a point again, statistics included."""
        self.alpha = alpha
        trainer.validate(module, datamodule=data, verbose=False)


def rule_of(module: SFTModule, monitor: RetentionMonitor, select_by: str | None, asked: Asked, at: Point) -> Rule:
    """The rule that chooses among points, by the metrics that were measured at one of them.

    The target's metric is that which was asked for, else that of `select_by` if it is of validation, else the task's first.
    Raises UserError for a metric that was asked for and not measured, or of which neither more nor less is better.
    """
    assert module.info is not None
    source = None if monitor.source_task is None else monitor.source_task.info
    wanted = select_by if select_by is not None and select_by.startswith("val/") else None
    learned = MetricInfo(*selecting(module.info, wanted, source))
    names = [f"retention/{make_task(source).primary.name}"] if source is not None else []
    kept = info_of(next(n for n in (*names, *KEPT) if n in at.values), module.info, source)
    found = [learned, kept]
    for place, (option, name) in enumerate((("--by", asked.by), ("--kept", asked.kept))):
        if name is not None:
            found[place] = info_of(name, module.info, source) if name in at.values else None
            if (held := found[place]) is None or held.better is None:
                ranked = [n for n in at.values if (i := info_of(n, module.info, source)) is not None and i.better]
                problem = f"'{name}' was not measured, or neither more nor less of it is better{nearest(name, ranked)}"
                raise UserError(option, problem, f"use one of {', '.join(ranked)}")
    assert found[0] is not None and found[1] is not None
    return Rule(found[0], found[1], asked.margin)


# ---- saying it ----


def table(points: Sequence[Point], rule: Rule, chosen: Point | None) -> list[str]:
    """A line for each point: loss, and what was learned and kept; the chosen one has a mark."""
    wanted = ["val/loss", rule.learned.name, rule.kept.name, "retention/forgetting", "retention/agreement", "drift/kl"]
    names = [n for n in dict.fromkeys(wanted) if n in points[0].values]
    rows = [["alpha", *names]]
    rows += [[f"{p.alpha:g}", *(f"{p.values[n]:.4f}" for n in names)] for p in points]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [f"{line}{'  <' if i and points[i - 1] is chosen else ''}" for i, line in enumerate(lines)]


def content(points: Sequence[Point], rule: Rule, chosen: Point | None, walk: Walk, run: str) -> dict[str, Any]:
    """All that is known of a path, as plain values for JSON."""
    return {
        "schema": 1,
        "run": run,
        "how": walk.asked.how,
        "rule": rule.words,
        "chosen": None if chosen is None else chosen.alpha,
        "batchnorm_samples": walk.samples,
        "n": dict(points[0].counts),
        "points": [{"alpha": p.alpha, "metrics": dict(p.values)} for p in points],
    }


def to_json(held: dict[str, Any]) -> str:
    """The content as JSON; NaN and infinities as texts."""
    return json.dumps(strict(held), indent=2, allow_nan=False) + "\n"


def to_csv(points: Sequence[Point]) -> str:
    """One row for each point: alpha, all metrics, and numbers of samples as `n/…`."""
    names = list(dict.fromkeys(n for p in points for n in p.values))
    counts = list(dict.fromkeys(c for p in points for c in p.counts))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["alpha", *names, *(f"n/{c}" for c in counts)])
    for p in points:
        writer.writerow([p.alpha, *(p.values.get(n, "") for n in names), *(p.counts.get(c, "") for c in counts)])
    return out.getvalue()
