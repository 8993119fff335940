"""Finds and removes weights of settings that were not chosen, to save disk space."""

import shutil
from pathlib import Path

from sft_lightning.ablation.plan import Point
from sft_lightning.ablation.scheduler import Scheduler

LARGE = 1 << 30


def folders(scheduler: Scheduler, point: str) -> list[Path]:
    """Folders with a point's weights."""
    run = scheduler.folder.run(point)
    return [run.last.parent, run.model]


def spare(scheduler: Scheduler) -> list[str]:
    """Ids of finished points whose weights no test needs, as every arm that has them has chosen another setting."""
    needed, tuning = set[str](), dict[str, Point]()
    for cell, arm in scheduler.places():
        choice = scheduler.choice(cell, arm)
        needed |= {p.id for p in (scheduler.tuning(cell, arm) if choice is None else choice.points)}
        tuning |= {p.id: p for p in scheduler.tuning(cell, arm)}
    return [i for i, point in tuning.items() if i not in needed and scheduler.look(point).finished]


def drop(scheduler: Scheduler) -> None:
    """Removes spare weights. If added seeds change the choice, the points are fitted again, with bitwise equal results."""
    for point in spare(scheduler):
        for folder in folders(scheduler, point):
            shutil.rmtree(folder, ignore_errors=True)


def hint(scheduler: Scheduler) -> str | None:
    """A line to print if spare weights take at least 1 GiB; else None."""
    files = (f for p in spare(scheduler) for folder in folders(scheduler, p) for f in folder.rglob("*") if f.is_file())
    taken = sum({(s.st_dev, s.st_ino): s.st_size for s in map(Path.stat, files)}.values())
    if taken < LARGE:
        return None
    return (
        f"disk    {taken / 1e9:.1f} GB are weights of settings that were not chosen: --keep_weights chosen removes them"
    )
