"""A run's place in a study: how its settings were chosen, and how other seeds of the same settings did."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ENDS = "selected"
"""Column of points.csv before which arm, axes and settings stand"""


@dataclass
class StudyPlace:
    """What a study's folder says of one of its runs."""

    study: str
    arm: str
    setting: dict[str, str]
    why: str
    """How the study chose this setting; empty if it chose another one"""
    rows: list[dict[str, str]] = field(default_factory=list)
    """The lines of points.csv with the same settings, one for each seed"""
    unfinished: str = ""
    """How much of the study is done, if it had not ended when its files were written; empty if it had"""

    def spread(self, metric: str) -> str:
        """`0.81 ± 0.02 (mean ± standard deviation of 3 seeds)`; empty for fewer than two seeds."""
        values = [float(row[metric]) for row in self.rows if row.get(metric)]
        if len(values) < 2:
            return ""
        return f"{mean(values):.4f} ± {stdev(values):.4f} (mean ± standard deviation of {len(values)} seeds)"


def place_of(run: Path) -> StudyPlace | None:
    """Finds the study whose folder holds the run; None if there is none, or if its files cannot be read."""
    try:
        with (run.parent / "points.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        study: dict[str, Any] = json.loads((run.parent / "study.json").read_text(encoding="utf-8"))
        mine = next(row for row in rows if row["point"] == run.name)
        names = list(mine)[1 : list(mine).index(ENDS)]
        setting = {n: mine[n] for n in names if n not in ("arm", "seed") and mine[n]}
        same = [r for r in rows if r["arm"] == mine["arm"] and all(r[n] == mine[n] for n in names if n != "seed")]
        arms = [cell["arms"].get(mine["arm"]) or {} for cell in study.get("cells") or []]
        why = next((str(arm.get("why") or "") for arm in arms if run.name in arm.get("points", [])), "")
        name, points = str(study.get("study") or run.parent.name), study.get("points") or {}
        done, total = (int(points.get(n) or 0) for n in ("finished", "total"))
        ended = study.get("status", "finished") == "finished" and done >= total
        return StudyPlace(
            name, mine["arm"], setting, why, same, "" if ended else f"{done} of {total} runs are finished"
        )
    except (OSError, ValueError, KeyError, StopIteration, AttributeError, TypeError):
        return None
