"""Writes `metrics.jsonl`: one object per logged step, each step once."""

import json
import math
import os
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from sft_lightning.runs.directory import write_atomic


class MetricsLog(Logger):
    """Writes `{"step": optimizer steps done, "epoch", "time": seconds since 1970, metric: value, …}` per line.

    Values of the same step go into one object. A resume drops the lines of later steps, which training writes again.
    NaN and infinities are written as strings, so that every line is JSON.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self._held: dict[str, Any] = {}
        self._written: int | None = None  # the last line's step

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The file."""
        return self.path

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: config.yaml has the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        at = 0 if step is None else int(step)
        if self._held and self._held["step"] != at:
            self.flush()
        if not self._held:
            self._held = {"step": at, "time": round(time.time(), 3)}
        for name, value in named_by_split(metrics).items():
            number = float(value)
            if name == "epoch":
                self._held["epoch"] = int(number)
            else:
                self._held[name] = number if math.isfinite(number) else str(number)

    @rank_zero_only
    def flush(self) -> None:
        """Writes the held values, into the last line if it has the same step."""
        if not self._held:
            return
        if self._held["step"] == self._written:
            lines = self.path.read_text().splitlines()
            lines[-1] = json.dumps({**json.loads(lines[-1]), **self._held})
            write_atomic(self.path, "".join(f"{line}\n" for line in lines))
        else:
            with self.path.open("a") as file:
                file.write(json.dumps(self._held) + "\n")
        self._written, self._held = self._held["step"], {}

    @rank_zero_only
    def sync(self) -> None:
        """Makes the file survive a loss of power, as the checkpoint that follows does."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def row(self) -> dict[str, Any]:
        """Returns the held values of a step that may be unfinished, for the checkpoint."""
        return dict(self._held)

    @rank_zero_only
    def rewind(self, step: int, row: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Restores the state after `step`, when `row` was held; drops later lines."""
        self._held, self._written = dict(row), None
        if self.path.is_file():
            end = row.get("step", step + 1)
            kept = [line for line in self.path.read_text(errors="replace").splitlines() if _step(line) < end]
            write_atomic(self.path, "".join(f"{line}\n" for line in kept))
            self._written = int(_step(kept[-1])) if kept else None

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.flush()


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return math.inf  # a damaged line is dropped


def named_by_split(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Renames metrics for a history: retention and drift of the test split get the prefix `test/`."""
    if not any(name.startswith("test/") for name in metrics):
        return dict(metrics)
    return {f"test/{n}" if n.startswith(("retention/", "drift/")) else n: v for n, v in metrics.items()}
