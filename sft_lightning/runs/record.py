"""`run.json`: describes the run, its status, and each metric before training, at its end and at best.ckpt."""

import json
import math
import os
import platform
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError
from sft_lightning.runs.directory import write_atomic

SCHEMA = 1
PACKAGES = (
    "torch",
    "lightning",
    "torchmetrics",
    "torchvision",
    "transformers",
    "timm",
    "peft",
    "datasets",
    "wandb",
    "jsonargparse",
)


class Record:
    """The content of `run.json`, written whole at each change.

    `status` is 'running', 'finished', 'failed' or 'interrupted'. `metrics[name]` has `before` (step 0), `final` with
    `final_step`, and `best` with `best_step`, the value at `best.ckpt`: the `best` of all metrics belong to one network
    (`selected` is the same number under its older name). `extreme` with `extreme_step` is the metric's own best over all
    validations, which may be another network for each metric. `measured[command]` says for `test`, `validate` and `predict`
    which checkpoint, of which step, was measured on which data. `metric_info[name]` has `better` ('max', 'min' or null if
    neither) and `unit` of each known metric. `primary` names the primary metrics of the `target` and the `source` task, so
    that readers can rank runs without knowing the task.
    """

    def __init__(self, path: Path, content: dict[str, Any] | None = None) -> None:
        self.path = path
        self.content: dict[str, Any] = content or {"schema": SCHEMA, "metrics": {}}

    @staticmethod
    def read(path: Path) -> "Record":
        """Reads a record; raises UserError if it is damaged or not of this project."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            raise UserError(path, f"cannot be read: {error}") from None
        if wrong := misfit(content):
            raise UserError(path, f"is damaged, or not of this project: {wrong}")
        upgrade(content)
        return Record(path, content)

    def update(self, **values: Any) -> None:
        """Sets top-level entries and writes."""
        self.content.update(values)
        self.write()

    def write(self) -> None:
        write_atomic(self.path, json.dumps(strict(redaction.without(self.content)), indent=2, allow_nan=False) + "\n")

    def start(self, **about: Any) -> None:
        """Marks the run as running; adds times, versions, git state and machine."""
        times = {"started": now(), **self.content.get("times", {})}
        times.pop("ended", None)  # a resumed run has not ended: drop the earlier end and its reason
        self.content.pop("reason", None)
        self.update(
            status="running",
            **about,
            git=git_state(),
            versions=versions(),
            host={"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count()},
            times=times,
        )

    def end(self, status: str, **about: Any) -> None:
        """Sets the status and time of the end."""
        self.content.setdefault("times", {})["ended"] = now()
        self.update(status=status, **about)

    def metric(self, name: str, value: float, step: int, better: str | None) -> None:
        """Sets a metric's value at a step; `better` is 'max', 'min', or None if neither is better."""
        entry = self.content["metrics"].setdefault(name, {})
        entry["final"], entry["final_step"] = value, step
        if better is not None and improves(value, entry.get("extreme"), better):
            entry["extreme"], entry["extreme_step"] = value, step

    def select(self, values: dict[str, float], by: str, step: int, epoch: int) -> None:
        """Sets `values` as those of the network in `best.ckpt`, chosen by the metric `by`."""
        metrics = self.content["metrics"]
        for entry in metrics.values():
            for which in ("best", "best_step", "selected"):
                entry.pop(which, None)
        for name, value in values.items():
            metrics.setdefault(name, {}).update(best=value, best_step=step, selected=value)
        self.content["selected"] = {"by": by, "step": step, "epoch": epoch}


def misfit(content: Any) -> str | None:
    """Returns what is wrong with the content of a record; None if it is valid."""
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        return "it has no metrics"
    for name, entry in content["metrics"].items():
        if not isinstance(entry, dict):
            return f"metric {name} must be an object"
        for which, value in entry.items():
            try:
                float(value)
            except (TypeError, ValueError, OverflowError):
                return f"{which} of metric {name} must be a number"
    for name, kind in (
        ("times", dict),
        ("resumed", int),
        ("data", dict),
        ("test", dict),
        ("selected", dict),
        ("metric_info", dict),
        ("primary", dict),
        ("status", str),
    ):
        if name in content and content[name] is not None and not isinstance(content[name], kind):
            return f"its {name} must be {'a number' if kind is int else 'text' if kind is str else 'an object'}"
    return None


def upgrade(content: dict[str, Any]) -> None:
    """Renames entries of earlier versions in place: their `best` is now `extreme`."""
    selected = content.get("selected")
    for name, entry in content["metrics"].items():
        if "best" not in entry or "final" not in entry or "final_step" in entry or name.startswith("test/"):
            continue
        entry["extreme"] = entry.pop("best")
        if "best_step" in entry:
            entry["extreme_step"] = entry.pop("best_step")
        if "selected" in entry:
            entry["best"] = entry["selected"]
            if isinstance(selected, dict) and "step" in selected:
                entry["best_step"] = selected["step"]


def strict(value: Any) -> Any:
    """Returns the same content with NaN and infinities as strings: JSON has no such numbers."""
    if isinstance(value, dict):
        return {k: strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strict(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def improves(value: float, best: float | None, better: str) -> bool:
    """Tells whether `value` is the new best; `better` is 'max' or 'min'. NaN is worse than any number."""
    best = None if best is None else float(best)  # a record from a file has text for NaN
    if best is None or math.isnan(best):
        return best is None or not math.isnan(value)
    return value > best if better == "max" else value < best


def now() -> str:
    """Returns the UTC time in ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def versions() -> dict[str, str]:
    """Returns the versions of this package and of those that results depend on."""
    from sft_lightning import __version__

    return {"sft_lightning": __version__, **_installed()}


@cache
def _installed() -> dict[str, str]:
    """The packages' versions, read once: modules that are imported do not change with the installation."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Returns commit and dirty flag of the working directory's repository; None outside one."""
    try:
        ask = ["git", "-C", os.getcwd()]
        commit = subprocess.run([*ask, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        if commit.returncode:
            return None
        dirty = subprocess.run([*ask, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=30)
        return {"commit": commit.stdout.strip(), "dirty": bool(dirty.stdout.strip())}
    except (OSError, subprocess.SubprocessError):
        return None


def command_line(args: list[str]) -> str:
    """Returns the command as typed, without secrets."""
    import shlex

    return shlex.join([Path(sys.executable).name, "-m", "sft_lightning", *redaction.without_in_arguments(args)])
