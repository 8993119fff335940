"""What was measured while testing: the largest value of each figure, merged into a file from which pages are written.

    figures.note("gradient, 2 processes, float64", error, "relative")

keeps the largest value noted under a key and how often it was noted. At the end of the session, where the environment
variable SFT_EXACTNESS_RESULTS names a file, they are merged into its JSON, `{key: {"value": …, "unit": …, "cases": n}}`:
the larger value stays and the numbers of cases add up, so that several sessions can write one file. A value that is no
number stays one: it beats every other.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

VARIABLE = "SFT_EXACTNESS_RESULTS"
_noted: dict[str, dict[str, Any]] = {}


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


def write() -> None:
    """Merges what was noted into the file of SFT_EXACTNESS_RESULTS, if set, and forgets it."""
    if not (name := os.environ.get(VARIABLE)) or not _noted:
        return
    path = Path(name)
    figures = json.loads(path.read_text()) if path.is_file() else {}
    for key, new in _noted.items():
        _add(figures, key, new)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(figures.items())), indent=1, ensure_ascii=False) + "\n")
    _noted.clear()
