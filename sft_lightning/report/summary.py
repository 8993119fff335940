"""Summarises each arm (and setting) of each cell: means and standard deviations over seeds, best, Pareto front, cost."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from sft_lightning.core.metric_info import on_test
from sft_lightning.report.model import Cell, Comparison, Point, group_names, grouped


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation over n seeds; the deviation of a single seed is None."""

    mean: float
    std: float | None
    n: int

    def text(self, digits: int = 4) -> str:
        """`0.9464 ± 0.0130`."""
        spread = "" if self.std is None else f" ± {rounded(self.std, digits)}"
        return f"{rounded(self.mean, digits)}{spread}"


def rounded(value: float, digits: int = 4) -> str:
    """A value with fixed digits as in papers, or in powers of ten if it is too small or too large for that."""
    return f"{value:.2e}" if value and (abs(value) < 10**-digits or abs(value) >= 1e5) else f"{value:.{digits}f}"


def stat(values: Iterable[tuple[str, float]]) -> Stat | None:
    """Statistics of (seed, value) pairs; several values of one seed (folds, repeated runs) count once, as their mean."""
    by_seed: dict[str, list[float]] = {}
    for seed, value in values:
        by_seed.setdefault(seed, []).append(value)
    means = [fmean(v) for v in by_seed.values()]
    return Stat(fmean(means), stdev(means) if len(means) > 1 else None, len(means)) if means else None


@dataclass
class Row:
    """One arm at one setting in one cell."""

    cell: Cell
    arm: str
    group: str
    """The arm's name, with the setting if the cell has several rows of the arm"""
    setting: str
    variant: str
    points: list[Point]
    """Finished points, or all if none is finished"""
    split: str
    stats: dict[str, Stat]
    """Statistics by validation's names of metrics; of test values if `split` is test"""
    cost: dict[str, Any]
    finished: bool
    best: set[str] = field(default_factory=set)
    front: bool = False

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len({p.repetition for p in self.points}) if self.finished else 0


def rows(comparison: Comparison, metrics: list[str] | None = None) -> list[Row]:
    """All rows, cell by cell; `metrics` (validation's names) default to all."""
    metrics = metrics or comparison.metrics()
    found: list[Row] = []
    for cell in comparison.cells:
        here = [p for p in comparison.of(cell) if p.selected]
        split = comparison.split([p for p in here if p.finished] or here, comparison.target)
        names = group_names(here)
        mine = [
            _row(cell, arm, setting, names[arm, setting], points, split, metrics)
            for (arm, setting), points in grouped(here).items()
        ]
        _mark(mine, comparison, metrics)
        found += mine
    return found


def _row(cell: Cell, arm: str, setting: str, group: str, points: list[Point], split: str, metrics: list[str]) -> Row:
    done = [p for p in points if p.finished]
    used = done or points
    stats: dict[str, Stat] = {}
    for metric in metrics:
        name = on_test(metric) if split == "test" else metric
        if (found := stat((p.repetition, p.values[name]) for p in used if name in p.values)) is not None:
            stats[metric] = found
    return Row(
        cell=cell,
        arm=arm,
        group=group,
        setting=setting,
        variant=next((p.variant for p in points if p.variant), ""),
        points=used,
        split=split,
        stats=stats,
        cost=_cost(used),
        finished=bool(done),
    )


def _cost(points: list[Point]) -> dict[str, Any]:
    """Mean cost of the runs, and the devices' names."""
    costs = [p.cost for p in points]
    found: dict[str, Any] = {}
    for name in ("fit_s", "retention_s", "trainable"):
        known = [float(c[name]) for c in costs if isinstance(c.get(name), int | float)]
        if known:
            found[name] = fmean(known)
    steps = [p.steps for p in points if p.steps is not None]
    if steps:
        found["steps"] = fmean(steps)
    if devices := dict.fromkeys(str(c["device"]) for c in costs if "device" in c):
        found["device"] = ", ".join(devices)
    return found


def _mark(mine: list[Row], comparison: Comparison, metrics: list[str]) -> None:
    """Marks the best mean of each metric among finished rows, and the rows on the Pareto front of target and kept."""
    done = [r for r in mine if r.finished]
    for metric in metrics:
        known, sign = [r for r in done if metric in r.stats], comparison.info(metric).sign
        if len(known) > 1 and sign:
            top = max(sign * r.stats[metric].mean for r in known)
            for row in known:
                if sign * row.stats[metric].mean == top:
                    row.best.add(metric)
    target, kept = comparison.target, comparison.kept
    signs = [comparison.info(m).sign for m in (target, kept)]
    if kept is None or not all(signs):
        return
    both = [r for r in done if target in r.stats and kept in r.stats]
    places = [(signs[0] * r.stats[target].mean, signs[1] * r.stats[kept].mean) for r in both]
    for row, (x, y) in zip(both, places, strict=True):
        row.front = not any((a >= x and b >= y) and (a > x or b > y) for a, b in places)


def answers(comparison: Comparison, found: list[Row]) -> list[tuple[str, str]]:
    """(cell, sentence): the study's own if it has one, else means and spreads in words, without further claims."""
    said = []
    for cell in comparison.cells:
        text = cell.answer or _means_in_words(comparison, [r for r in found if r.cell is cell])
        said.append((comparison.label(cell), text))
    return said


def _means_in_words(comparison: Comparison, mine: list[Row]) -> str:
    target, kept = comparison.target, comparison.kept
    done = [r for r in mine if r.finished and target in r.stats]
    if not done and any(r.finished for r in mine):
        return f"The finished runs here lack {target}: name a metric that they have with --metric."
    if not done:
        return "No run is finished, so there is no answer yet."
    split = "test" if done[0].split == "test" else "validation"
    if len(done) == 1:
        row = done[0]
        text = f"{row.group}: {_both(row, target, kept)} on {split}; there is no other arm to compare it with."
    elif not comparison.info(target).sign:
        values = "; ".join(f"{r.group}: {_both(r, target, kept)}" for r in done)
        text = (
            f"No run says whether more or less of {target} is better, so the arms are not ranked. On {split}, {values}."
        )
    else:
        sign = comparison.info(kept).sign
        first = [r for r in done if target in r.best] or done[:1]
        # among equal ones, choose the one that kept the most
        learned = max(first, key=lambda r: sign * r.stats[kept].mean if kept in r.stats else float("-inf"))
        text = f"On {split}, {learned.group} learned the most ({_both(learned, target, kept)})"
        holders = [r for r in done if kept is not None and kept in r.best and r.variant != "LinearProbe"]
        best_kept = [r for r in done if kept is not None and kept in r.best]
        if learned in holders:
            text += " and kept the most."
        elif holders and kept is not None:
            text += f"; {holders[0].group} kept the most ({_both(holders[0], target, kept)})."
        elif best_kept:
            text += f"; {best_kept[0].group} keeps all by construction."
        elif any(kept in r.stats for r in done) and not sign:
            text += f"; no run says whether more or less of {kept} is better."
        else:
            text += "; nothing is known of what was kept."
    seeds = [r.n for r in done]
    if max(seeds) == 1:
        spread = "One seed each" if len(done) > 1 else "One seed"
        return f"{text} {spread}: nothing is known of the spread, so the order may be chance."
    over = f"{min(seeds)} to {max(seeds)}" if min(seeds) != max(seeds) else str(seeds[0])
    lone = "; arms with one seed have no known spread" if min(seeds) == 1 else ""
    return f"{text} ± is the standard deviation over {over} seeds{lone}; no test of the differences was made."


def _both(row: Row, target: str, kept: str | None) -> str:
    text = f"{shown(target, row.split)} {row.stats[target].text(3)}"
    if kept is not None and kept in row.stats:
        text += f", {shown(kept, row.split)} {row.stats[kept].text(3)}"
    return text


def shown(metric: str, split: str) -> str:
    """A metric's name on the split whose values are shown."""
    return on_test(metric) if split == "test" else metric
