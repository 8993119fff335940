"""What was measured while testing: the largest value of each figure, merged into a file from which pages are written.

    figures.note("gradient, 2 processes, float64", error, "relative")

keeps the largest value noted under a key and how often it was noted. At the end of the session, where the environment
variable SFT_EXACTNESS_RESULTS names a file, they are merged into its JSON under `figures`, beside outcomes by test file:
the larger value stays and the numbers of cases add up, so that several sessions can write one file. A value that is no
number stays one: it beats every other.
"""

import json
import math
import os
import platform
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

VARIABLE = "SFT_EXACTNESS_RESULTS"
_noted: dict[str, dict[str, Any]] = {}
_outcomes: dict[str, dict[str, int]] = {}


def note(key: str, value: float | int, unit: str = "") -> None:
    """Adds one case of a figure."""
    _add(_noted, key, {"value": value, "unit": unit, "cases": 1})


def _add(figures: dict[str, dict[str, Any]], key: str, new: dict[str, Any]) -> None:
    old = figures.get(key)
    if old is None:
        figures[key] = dict(new)
        return
    assert old["unit"] == new["unit"], f"figure '{key}' is in {old['unit']!r} and in {new['unit']!r}"
    values = [old["value"], new["value"]]
    value = next((v for v in values if math.isnan(v)), max(values))
    figures[key] = {"value": value, "unit": new["unit"], "cases": old["cases"] + new["cases"]}


def outcome(file: str, what: str) -> None:
    """Counts a test of a file as 'passed', 'failed' or 'skipped'."""
    counts = _outcomes.setdefault(file, {"passed": 0, "failed": 0, "skipped": 0})
    counts[what] += 1


def write() -> None:
    """Merges what was noted into the file of SFT_EXACTNESS_RESULTS, if set, and forgets it."""
    if not (name := os.environ.get(VARIABLE)) or not _outcomes:
        return
    path = Path(name)
    held = json.loads(path.read_text()) if path.is_file() else {"figures": {}, "tests": {}}
    for key, new in _noted.items():
        _add(held["figures"], key, new)
    for file, counts in _outcomes.items():
        old = held["tests"].get(file, {})
        held["tests"][file] = {what: n + old.get(what, 0) for what, n in counts.items()}
    held = {
        "run": {**about(), "commands": [*held.get("run", {}).get("commands", []), command()]},
        "figures": dict(sorted(held["figures"].items())),
        "tests": dict(sorted(held["tests"].items())),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n")
    _noted.clear()
    _outcomes.clear()


def command() -> str:
    """This session's command."""
    return shlex.join(
        ["python", "-m", "pytest", *(a for a in sys.argv[1:] if a != "-q" and not a.startswith("--dura"))]
    )


def about() -> dict[str, Any]:
    """Where and with what the figures came to be."""
    import torch

    packages = ("torch", "lightning", "transformers", "torchmetrics", "scikit-learn", "hypothesis")
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "python": platform.python_version(),
        "packages": {p: metadata.version(p) for p in packages},
        "cores": os.cpu_count(),
        "gpu": torch.cuda.is_available(),
    }
