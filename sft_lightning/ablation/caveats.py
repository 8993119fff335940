"""Writes the caveats of a study: choices at the end of their range, and tested runs that also chose settings."""

import math
from typing import Any

from sft_lightning.ablation.study import Arm, Study
from sft_lightning.config.overrides import short

NEAR = 0.02
"""Share of a searched range that counts as its end; on a logarithmic scale for logarithmic ranges"""
OPTIMISM = (
    "The tested runs are among those that chose the settings, so that their numbers are a little too high, more so where an "
    "arm had more settings to choose from: report_seeds tests runs of fresh seeds."
)
FOLDS = (
    "Settings were chosen by folds of the labelled set; best.ckpt of a tested run was then chosen on the ordinary validation "
    "split, whose labels are no part of that set."
)


def at_end(arm: Arm, setting: dict[str, Any] | None, solved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """[{key, value, end}] of the tuned keys whose chosen value lies at an end of the tried values; a lowest value of 0 is fine.

    Args:
        arm: The arm with its grid or ranges.
        setting: The chosen setting.
        solved: `solved` of the chosen runs' run.json: strengths that the runs chose themselves.
    """
    found: list[dict[str, Any]] = []
    keys = [*arm.tune, *(arm.search or {}).get("ranges", {})]
    for key, value in (setting or {}).items():
        tried = arm.tune.get(key) or (arm.search or {}).get("ranges", {}).get(key)
        end = end_of(value, tried)
        if end is not None:
            found.append({"key": short(key, keys), "value": value, "end": end})
    for about in solved:
        if about.get("at_end"):
            found.append({"key": "strength", "value": about.get("strength"), "end": about["at_end"]})
    return [e for i, e in enumerate(found) if e not in found[:i]]


def end_of(value: Any, tried: Any) -> str | None:
    """'lowest' or 'highest' if a number lies at that end of a list of values or of a range {low, high, log}; else None."""
    if isinstance(tried, dict):
        low, high = float(tried["low"]), float(tried["high"])
        place = math.log if tried.get("log") else float
        share = (place(value) - place(low)) / (place(high) - place(low))
        end = "lowest" if share <= NEAR else "highest" if share >= 1 - NEAR else None
    else:
        numbers = [v for v in tried or [] if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) < 2 or value not in numbers:
            return None
        low = min(numbers)
        end = "lowest" if value == low else "highest" if value == max(numbers) else None
    return None if end == "lowest" and low == 0 else end


def ends_said(ends: dict[str, list[dict[str, Any]]]) -> str:
    """A sentence on the choices at an end, by arm; empty if there are none."""
    said = [
        f"{arm} ({', '.join(dict.fromkeys(one(e) for e in found if e['end'] is not None))})"
        for arm, found in ends.items()
        if found
    ]
    return (
        f"Chosen at the end of what was tried, so that a better setting may lie beyond: {', '.join(said)}."
        if said
        else ""
    )


def one(end: dict[str, Any]) -> str:
    """One choice at an end, in words: `highest lr 0.01`."""
    value = end["value"]
    return f"{end['end']} {end['key']} {value:g}" if isinstance(value, float) else f"{end['end']} {end['key']} {value}"


def seen(study: Study, tuned: bool) -> list[str]:
    """Sentences on the part that tested runs had in choosing settings; `tuned`: whether some arm had several settings."""
    if not tuned:
        return []
    if study.folds is not None:
        return [FOLDS]
    return [] if study.report_seeds is not None else [OPTIMISM]
