"""Reading a run back, without torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core import plain_yaml
from sft_lightning.core.errors import UserError
from sft_lightning.runs.directory import RunDirectory
from sft_lightning.runs.record import misfit, upgrade


@dataclass(frozen=True)
class Run:
    """A run as its directory tells it."""

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
        """One metric's value 'before' training, 'final', or 'best': at best.ckpt, as all others' best.

        'extreme' is the metric's own best over all validations, whichever network that was of.
        """
        entries = self.record["metrics"]
        if name not in entries or which not in entries[name]:
            from sft_lightning.core.errors import nearest

            raise UserError(self.path, f"no {which} value of metric '{name}'{nearest(name, entries)}")
        return float(entries[name][which])

    @property
    def config(self) -> dict[str, Any]:
        """`config.yaml`, everything resolved."""
        try:
            return dict(plain_yaml.load_file(self.files.config))
        except (yaml.YAMLError, ValueError, TypeError, OSError) as error:
            raise UserError(self.files.config, f"cannot be read: {error}") from None

    def history(self) -> list[dict[str, Any]]:
        """`metrics.jsonl`: one dict per logged step, in order; numbers as float, NaN and infinities too."""
        if not self.files.metrics.is_file():
            return []
        rows = []
        lines = self.files.metrics.read_text().splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                if number == len(lines) and not line.endswith("\n"):
                    break  # being written, or cut off where the run was killed
                raise UserError(self.files.metrics, f"line {number} cannot be read: {error}") from None
            rows.append({k: float(v) if isinstance(v, str) else v for k, v in row.items()})
        return rows

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one metric."""
        rows = [(r["step"], r[name]) for r in self.history() if name in r]
        return [s for s, _ in rows], [v for _, v in rows]


def load(path: str | Path) -> Run:
    """Reads a run directory."""
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
