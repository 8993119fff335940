"""A budget of time, what size of study it pays for, and how many seeds."""

import math
import re
from collections.abc import Callable

from sft_lightning.core.errors import UserError

SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", re.IGNORECASE)


def parse_budget(text: str) -> float:
    """Seconds of `1h`, `90m`, `2h30m`, `3600s`, `1.5h`, `1d`. Raises UserError for anything else, and for nothing."""
    said = text.strip()
    parts = PART.findall(said)
    if not parts or PART.sub("", said).strip():
        raise UserError("--budget", f"'{text}' is no time such as 1h, 90m, 2h30m or 3600s")
    units = [unit.lower() for _, unit in parts]
    if len({SECONDS[u] for u in units}) < len(units):
        raise UserError("--budget", f"'{text}' names a unit twice", "write 2h30m, for instance")
    seconds = sum(float(number) * SECONDS[unit] for (number, _), unit in zip(parts, units, strict=True))
    if not 0 < seconds < math.inf:
        raise UserError("--budget", f"'{text}' is no time at all: 1h, for instance")
    return seconds


SLACK = 1.15
"""A fit may cost so many times what its first steps say: other work on the machine, checkpoints, longer batches"""
LEAST_SEEDS = 3
"""Fewer show no spread"""


def fits_of(settings: list[int], tune_seeds: int, folds: int | None, seeds: int) -> int:
    """Fits of a study in one cell, tuning and chosen settings together.

    Args:
        settings: Number of settings of each arm.
        tune_seeds: Seeds that settings are chosen on.
        folds: Of cross-validation; None for none.
        seeds: Of the chosen settings.
    """
    tuning = sum(n for n in settings if n > 1) * min(tune_seeds, seeds) * (folds or 1)
    tuned = sum(n > 1 for n in settings)
    again = (
        seeds if folds else seeds - min(tune_seeds, seeds)
    )  # tuning without folds trained the chosen setting already
    return tuning + tuned * again + (len(settings) - tuned) * seeds


def size_for(budget_s: float, costs: list[float], workers: int) -> tuple[int, str]:
    """(index of the largest study that the budget pays for, else the last; its cost in words).

    Args:
        budget_s: What there is, in seconds of wall time.
        costs: Seconds of each study with the fewest seeds, one run after another: the whole one, then ever smaller ones.
        workers: Runs side by side.
    """
    walls = [cost / max(1, workers) for cost in costs]
    index = next((i for i, wall in enumerate(walls) if wall <= budget_s), len(walls) - 1)
    more = "more than the" if walls[index] > budget_s else "of the"
    return index, f"about {spoken(walls[index])} with {LEAST_SEEDS} seeds, {more} {spoken(budget_s)}"


def seeds_for(
    budget_s: float, cost: Callable[[int], float], workers: int, least: int = LEAST_SEEDS, most: int = 20
) -> tuple[int, str]:
    """(number of seeds, the sentence that explains it).

    Args:
        budget_s: What there is, in seconds of wall time.
        cost: Seconds of the study with so many seeds, one run after another; it grows with them.
        workers: Runs side by side.
        least: Fewest seeds, whatever the budget: fewer show no spread.
        most: Most seeds: more show little, or are not there.
    """
    workers = max(1, workers)
    affordable = max((n for n in range(1, most + 2) if cost(n) / workers <= budget_s + 1e-6), default=0)
    seeds = min(max(affordable, least), most)
    total = spoken(cost(seeds) / workers)
    where = "1 worker" if workers == 1 else f"{workers} workers"
    if affordable < least:
        why = f"the budget of {spoken(budget_s)} pays for {affordable} with {where}, and fewer than {least} show no spread"
        return seeds, f"{seeds} seeds: {why}, so this takes about {total}"
    if affordable > most:
        return seeds, f"{seeds} seeds, the most there are: about {total} of {spoken(budget_s)} with {where}"
    return seeds, f"{seeds} seeds, as many as {spoken(budget_s)} pays for: about {total} with {where}"


def spoken(seconds: float) -> str:
    """`45 s`, `12 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h" + (f" {rest} min" if rest else "")
