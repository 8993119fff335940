"""Reads a run back, without importing torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core import plain_yaml
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.runs.directory import RunDirectory
from sft_lightning.runs.record import misfit, upgrade


@dataclass(frozen=True)
class Run:
    """A run as read from its directory."""

    path: Path
    record: dict[str, Any]
    """`run.json`, whole"""

    @property
    def files(self) -> RunDirectory:
        return RunDirectory(self.path)

    @property
    def status(self) -> str:
        """'running', 'finished', 'failed' or 'interrupted'."""
        return str(self.record["status"])

    @property
    def metrics(self) -> dict[str, float]:
        """The final value of each metric."""
        return {name: entry["final"] for name, entry in self.record["metrics"].items() if "final" in entry}

    def metric(self, name: str, which: str = "final") -> float:
        """Returns a metric's value 'before' training, 'final', or 'best', which is the value at best.ckpt.

        'extreme' is the metric's own best over all validations, possibly of another network.
        """
        entries = self.record["metrics"]
        if name not in entries:
            raise UserError(self.path, f"there is no metric '{name}'{nearest(name, entries)}")
        if which not in entries[name]:
            raise UserError(self.path, f"metric '{name}' has no {which} value", f"choose {', '.join(entries[name])}")
        return float(entries[name][which])

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config, from `config.yaml`."""
        try:
            return dict(plain_yaml.load_file(self.files.config))
        except (yaml.YAMLError, ValueError, TypeError, OSError) as error:
            raise UserError(self.files.config, f"cannot be read: {error}") from None

    def history(self) -> list[dict[str, Any]]:
        """Reads `metrics.jsonl`: one dict per logged step, in order. NaN and infinities become floats."""
        if not self.files.metrics.is_file():
            return []
        rows = []
        lines = self.files.metrics.read_text().splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                if number == len(lines) and not line.endswith("\n"):
                    break  # the run is writing it, or was killed while writing
                raise UserError(self.files.metrics, f"line {number} cannot be read: {error}") from None
            rows.append({k: float(v) if isinstance(v, str) else v for k, v in row.items()})
        return rows

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Returns (steps, values) of one metric."""
        rows = [(r["step"], r[name]) for r in self.history() if name in r]
        return [s for s, _ in rows], [v for _, v in rows]


def load(path: str | Path) -> Run:
    """Reads a run directory; raises UserError if it is damaged or not a run."""
    files = RunDirectory(Path(path).expanduser())
    try:
        record = json.loads(files.record.read_text())
    except FileNotFoundError:
        raise UserError(path, "is not a run directory, because it has no run.json") from None
    except (ValueError, OSError) as error:
        raise UserError(files.record, f"cannot be read: {error}") from None
    if wrong := misfit(record):
        raise UserError(files.record, f"is not of this project: {wrong}")
    upgrade(record)
    return Run(files.path, record)
