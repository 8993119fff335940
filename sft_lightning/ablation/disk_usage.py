"""What a study holds on disk: weights of settings that were not chosen may go once the choice is made."""

import shutil
from pathlib import Path

from sft_lightning.ablation.plan import Point
from sft_lightning.ablation.scheduler import Scheduler

LARGE = 1 << 30


def folders(scheduler: Scheduler, point: str) -> list[Path]:
    """Where a point's weights lie."""
    run = scheduler.folder.run(point)
    return [run.last.parent, run.model]


def spare(scheduler: Scheduler) -> list[str]:
    """Finished points whose weights no test needs: of arms whose choice is made, and that no other arm may choose."""
    needed, tuning = set[str](), dict[str, Point]()
    for cell, arm in scheduler.places():
        choice = scheduler.choice(cell, arm)
        needed |= {p.id for p in (scheduler.tuning(cell, arm) if choice is None else choice.points)}
        tuning |= {p.id: p for p in scheduler.tuning(cell, arm)}
    return [i for i, point in tuning.items() if i not in needed and scheduler.look(point).finished]


def drop(scheduler: Scheduler) -> None:
    """Removes them. One that is chosen after all, when seeds are added, is fitted again, which gives the same bits."""
    for point in spare(scheduler):
        for folder in folders(scheduler, point):
            shutil.rmtree(folder, ignore_errors=True)


def hint(scheduler: Scheduler) -> str | None:
    """A line where they take much room."""
    files = (f for p in spare(scheduler) for folder in folders(scheduler, p) for f in folder.rglob("*") if f.is_file())
    taken = sum({(s.st_dev, s.st_ino): s.st_size for s in map(Path.stat, files)}.values())
    if taken < LARGE:
        return None
    return (
        f"disk    {taken / 1e9:.1f} GB are weights of settings that were not chosen: --keep_weights chosen removes them"
    )
