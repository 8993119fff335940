"""Shows a dry run: the study's points, their number and their cost."""

import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sft_lightning.ablation.budget import spoken
from sft_lightning.ablation.progress import Work, seconds_left, work
from sft_lightning.ablation.scheduler import Scheduler

LISTED = 40
"""Largest number of fits for which points are listed one by one"""
WIDTH = 100
"""Width of the output in columns, off a terminal"""


def show(scheduler: Scheduler, workers: int, open_size: bool = False) -> None:
    """Prints the points (or, if they are many, numbers for each arm and cell), their total and their cost.

    `open_size`: whether a budget has still to settle the study's size.
    """
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    todo = work(scheduler)
    fits, tests = sum(w.tuning + w.refits for w in todo), sum(w.tests for w in todo)
    console.print(by_point(scheduler, todo) if fits <= LISTED else by_arm(scheduler, todo))
    if fits > LISTED:
        said = f"--dry-run lists the points of up to {LISTED} fits; points.csv has all of them once the study runs"
        console.print(said, soft_wrap=True)
    grids = ", and how large the grids are" if open_size else ""
    fresh = (
        f" that choose, {len(scheduler.report_seeds)} fresh ones that are tested"
        if scheduler.study.report_seeds
        else ""
    )
    seeds = f"{len(scheduler.seeds)} seed{'s' * (len(scheduler.seeds) > 1)}{fresh}" + (
        f" (the budget says how many more{grids})" if scheduler.only_tune else ""
    )
    console.print(f"{fits} fits and {tests} tests; {seeds}; {workers} workers; {scheduler.folder.path}", soft_wrap=True)
    console.print(cost(scheduler, todo, workers), soft_wrap=True)


def cost(scheduler: Scheduler, todo: list[Work], workers: int) -> str:
    """The cost of the remaining work, in words."""
    if not any(w.fits_left or w.tests_left for w in todo):
        return "cost: nothing is left to do"
    fits, tests = seconds_left(scheduler, todo)
    if fits is None:
        return "cost: not known before the first point is finished"
    left = spoken((fits + (tests or 0.0)) / max(1, workers))
    uncounted = "; tests not counted: none is done yet" if tests is None else ""
    return f"cost: about {left} to go, by the points that are finished{uncounted}"


def by_point(scheduler: Scheduler, todo: list[Work]) -> Table:
    """A row for each known point, and one for the points of an arm and cell that depend on results to come."""
    axes = [a.name for a in scheduler.study.axes]
    folds = ["fold"] if scheduler.study.folds else []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("point", "arm", *axes, "setting", "seed", *folds, "status"):
        numbers = name in ("seed", *folds)
        broken = name in ("arm", *axes, "setting")
        table.add_column(name, justify="right" if numbers else "left", overflow="fold", no_wrap=not broken)
    for place in todo:
        about = [place.arm.name, *(str(v) for v in place.cell.values())]
        for point in place.points:
            standing = scheduler.look(point)
            fold = ["" if point.fold is None else str(point.fold)] if folds else []
            status = standing.status + (", tested" if standing.tested else "")
            table.add_row(point.id, *about, setting(scheduler, point.setting), str(point.seed), *fold, status)
        for number, what in ((place.unproposed, "as the search proposes"), (place.unchosen, "the one that is chosen")):
            if number:
                table.add_row(f"{number} more", *about, what, "", *([""] if folds else []), "to come")
    return table


def by_arm(scheduler: Scheduler, todo: list[Work]) -> Table:
    """A row for each arm in each cell, with numbers of points."""
    axes = [a.name for a in scheduler.study.axes]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("arm", *axes, "settings", "tune", "refit", "test", "done"):
        left = name in ("arm", *axes, "settings")
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for place in todo:
        done = sum(scheduler.look(p).finished for p in place.points)
        numbers = (place.tuning, place.refits, place.tests, done)
        about = [place.arm.name, *(str(v) for v in place.cell.values()), settings(scheduler, place.arm)]
        table.add_row(*about, *map(str, numbers))
    return table


def setting(scheduler: Scheduler, given: dict[str, Any]) -> str:
    """A setting under short names: `lr 0.001, alpha 0.01`."""
    shown = scheduler.study.shown(given)
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())


def settings(scheduler: Scheduler, arm: Any) -> str:
    """The settings that an arm chooses among, in words."""
    if arm.path is not None:
        return str(arm.path.words)
    if arm.search is not None:
        return f"{arm.search['trials']} trials over {', '.join(scheduler.study.shown(arm.search['ranges']))}"
    shown = scheduler.study.shown(dict(arm.tune))
    return "; ".join(f"{k} {', '.join(map(str, v))}" for k, v in shown.items())
