"""Reads a time budget, and finds the size of study and the number of seeds that fit into it."""

import math
import re
from collections.abc import Callable

from sft_lightning.core.errors import UserError

SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "min": 60.0, "s": 1.0}
PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", re.IGNORECASE)


def parse_budget(text: str) -> float:
    """Seconds of `1h`, `90m`, `2h30m`, `3600s`, `1.5h`, `1d`. Raises UserError for other text, and for 0."""
    said = text.strip()
    parts = PART.findall(said)
    if not parts or PART.sub("", said).strip():
        raise UserError("--budget", f"'{text}' is not a time", "write it like 1h, 90m, 2h30m or 3600s")
    units = [unit.lower() for _, unit in parts]
    if len({SECONDS[u] for u in units}) < len(units):
        raise UserError("--budget", f"'{text}' has a unit twice", "write it like 2h30m")
    seconds = sum(float(number) * SECONDS[unit] for (number, _), unit in zip(parts, units, strict=True))
    if not 0 < seconds < math.inf:
        raise UserError("--budget", f"'{text}' must be more than 0 and finite", "write it like 1h")
    return seconds


SLACK = 1.15
"""Factor on a fit's cost as its first steps foresee it, for other work on the machine, checkpoints and longer batches"""
LEAST_SEEDS = 3
"""Fewest seeds of a budgeted study: fewer show no spread"""


def fits_of(settings: list[int], tune_seeds: int, folds: int | None, seeds: int) -> int:
    """Number of fits of a study in one cell, for tuning and for the chosen settings.

    Args:
        settings: Number of settings of each arm.
        tune_seeds: Number of seeds that settings are chosen on.
        folds: Number of folds of cross-validation; None without.
        seeds: Number of seeds of the chosen settings.
    """
    tuning = sum(n for n in settings if n > 1) * min(tune_seeds, seeds) * (folds or 1)
    tuned = sum(n > 1 for n in settings)
    # Tuning without folds has trained the chosen setting already.
    again = seeds if folds else seeds - min(tune_seeds, seeds)
    return tuning + tuned * again + (len(settings) - tuned) * seeds


def size_for(budget_s: float, costs: list[float], workers: int) -> tuple[int, str]:
    """(index of the largest study within the budget, else of the smallest; its cost in words).

    Args:
        budget_s: The budget, in seconds of wall time.
        costs: Seconds of each study with the fewest seeds, one run after another; the whole study first, the smallest last.
        workers: Number of runs side by side.
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
        budget_s: The budget, in seconds of wall time.
        cost: Returns seconds of the study with a number of seeds, one run after another; it grows with that number.
        workers: Number of runs side by side.
        least: Fewest seeds, whatever the budget.
        most: Most seeds, as more add little or the study lists no more.
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
    """Seconds in words: `45 s`, `12 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h" + (f" {rest} min" if rest else "")
