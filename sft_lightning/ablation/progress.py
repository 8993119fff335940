"""Shows a study's progress: a live table in a terminal, else a line for each point."""

import sys
import time
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sft_lightning.ablation.budget import spoken
from sft_lightning.ablation.cost import seconds_of_fit
from sft_lightning.ablation.plan import Point
from sft_lightning.ablation.scheduler import Scheduler
from sft_lightning.ablation.study import Arm
from sft_lightning.ablation.study_dir import KILLED, MOST_KILLS, PointStatus, has_failed
from sft_lightning.core.metric_info import on_test
from sft_lightning.runs.status import FAILED, FINISHED, INTERRUPTED, QUEUED, RUNNING

COLUMNS = (QUEUED, RUNNING, FINISHED, FAILED, "tested")
EVERY = 60.0
"""Off a terminal, seconds without output after which a line names the running jobs"""


@dataclass(frozen=True)
class Work:
    """Amount of work of an arm in a cell, in total and remaining. Points that depend on results to come are only counted."""

    cell: dict[str, Any]
    arm: Arm
    points: list[Point]
    """Known points: those of tuning, then those of the chosen setting"""
    tuning: int
    """Number of fits to choose the setting"""
    refits: int
    """Number of further fits, of the chosen setting"""
    tests: int
    unproposed: int
    """Number of fits of trials that the search has not proposed yet"""
    unchosen: int
    """Number of refits while the setting is not chosen"""
    fits_left: int
    tests_left: int


def work(scheduler: Scheduler) -> list[Work]:
    """The work of each arm in each cell, by the status of its points. Shared points remain only for the first arm."""
    found: list[Work] = []
    met: dict[str, set[str]] = {"fit": set(), "test": set()}
    folds, seeds = scheduler.study.folds, scheduler.report_seeds
    for cell, arm in scheduler.places():
        tuning, choice = scheduler.tuning(cell, arm), scheduler.choice(cell, arm)
        planned, unproposed = len(tuning), 0
        if arm.search is not None:
            search, each = scheduler.search(cell, arm), len(scheduler.tune_seeds) * (folds or 1)
            planned, unproposed = search.trials * each, max(0, search.trials - len(search.proposed())) * each
        # Tuning without folds has trained the chosen setting already, on the seeds that it was chosen on.
        alone = arm.search is None and len(arm.settings) == 1
        refits = len(seeds) if alone or folds else len(set(seeds) - set(scheduler.tune_seeds))
        chosen = choice.points if choice else []
        points = list({p.id: p for p in [*tuning, *chosen]}.values())
        fits = {p.id for p in points if not scheduler.look(p).over} - met["fit"]
        tests = {p.id for p in chosen if to_test(scheduler.look(p))} - met["test"]
        met = {"fit": met["fit"] | fits, "test": met["test"] | tests}
        unchosen = 0 if choice else refits
        left = (len(fits) + unproposed + unchosen, len(tests) if choice else len(seeds))
        found.append(Work(cell, arm, points, planned, refits, len(seeds), unproposed, unchosen, *left))
    return found


def ending(about: dict[str, Any]) -> str:
    """Words on a job that ended early: `failed`, or `interrupted` if it will be retried."""
    if has_failed(about):
        return f"failed: {about.get('reason')}"
    kills = f" (killed {about['kills']} of {MOST_KILLS} times)" if about.get("exit") in KILLED else ""
    return f"interrupted: {about.get('reason')}; it will be tried again{kills}"


def to_test(standing: PointStatus) -> bool:
    """Whether a chosen point is still to be tested, perhaps after its fit."""
    return standing.wants_test or not standing.over


def seconds_left(scheduler: Scheduler, todo: list[Work]) -> tuple[float | None, float | None]:
    """Seconds of the remaining (fits, tests), one after another; None before the first of its kind is done.

    A fit takes the mean of its arm, or of all arms while its own has no finished fit. A test takes the mean of all tests.
    """
    fit: dict[str, list[float]] = {}
    test: list[float] = []
    for place in todo:
        for standing in map(scheduler.look, place.points):
            if (seconds := seconds_of_fit(standing)) is not None:
                fit.setdefault(place.arm.name, []).append(seconds)
            if standing.tested and (seconds := standing.of("test").get("seconds")) is not None:
                test.append(float(seconds))
    every = [s for found in fit.values() for s in found]
    fits = {w.arm.name: fmean(fit.get(w.arm.name, every)) for w in todo} if every else {}
    left, tests = sum(w.fits_left for w in todo), sum(w.tests_left for w in todo)
    return (
        sum(w.fits_left * fits[w.arm.name] for w in todo) if fits else None if left else 0.0,
        tests * fmean(test) if test else None if tests else 0.0,
    )


def remaining(scheduler: Scheduler, workers: int) -> float | None:
    """Seconds to go; None before a fit is done. Tests are not counted before the first is done."""
    fits, tests = seconds_left(scheduler, work(scheduler))
    return None if fits is None else (fits + (tests or 0.0)) / max(1, workers)


class Progress:
    """Shows a study's progress.

    Args:
        scheduler: The study's scheduler.
        workers: Number of worker processes.
        quiet: Show nothing.
    """

    def __init__(self, scheduler: Scheduler, workers: int, quiet: bool) -> None:
        self.scheduler, self.workers, self.quiet = scheduler, workers, quiet
        self.console = Console(file=sys.stdout, highlight=False)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal and not quiet else None
        self._shown = 0.0
        self._said = time.monotonic()
        self._since: dict[tuple[str, str], float] = {}
        if self.live is not None:
            self.live.start()

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of each arm's points by status."""
        found: dict[str, dict[str, int]] = {}
        fitting = {point for job, point in self.scheduler.under_way if job == "fit"}
        for point in self.scheduler.all_points():
            status = "running" if point.id in fitting else self.scheduler.look(point).status
            row = found.setdefault(point.arm, dict.fromkeys(COLUMNS, 0))
            row[QUEUED if status == INTERRUPTED else status] += 1
            row["tested"] += self.scheduler.look(point).tested
        return found

    def say_alive(self) -> None:
        """Off a terminal, prints a line after each minute without other output."""
        now = time.monotonic()
        self._since = {job: self._since.get(job, now) for job in self.scheduler.under_way}
        if self.quiet or self.live is not None or now - self._said < EVERY:
            return
        longest = sorted(self._since.items(), key=lambda item: item[1])
        running = [
            f"{job} {self.scheduler.points[point].label} for {spoken(now - began)}" for (job, point), began in longest
        ]
        self._print(f"working: {'; '.join(running) or 'choosing what is next'}")

    def _print(self, line: str) -> None:
        self._said = time.monotonic()
        self.console.print(line, markup=False, soft_wrap=True)

    def show(self, force: bool = False) -> None:
        """Redraws the table, at most twice a second; off a terminal, prints the running jobs each minute."""
        self.say_alive()
        if self.live is None or (not force and time.monotonic() - self._shown < 0.5):
            return
        self._shown = time.monotonic()
        left = remaining(self.scheduler, self.workers)
        table = Table(title=None, caption=f"about {spoken(left)} to go" if left else None, caption_justify="left")
        table.add_column("arm")
        for name in COLUMNS:
            table.add_column(name, justify="right")
        for arm, row in self.counts().items():
            table.add_row(arm, *(str(row[c]) if row[c] else "" for c in COLUMNS))
        self.live.update(table, refresh=True)

    def ended(self, job: str, point: str, note: dict[str, Any]) -> None:
        """Shows the result of a job that ended."""
        about, of = note.get(job, {}), self.scheduler.points[point]
        failed = about.get("exit", 0) != 0
        if job == "time" and not failed:
            return
        if self.quiet or (self.live is not None and not failed):
            self.show()
            return
        standing = self.scheduler.look(of)
        metrics = self.scheduler.metrics_of(of.cell)
        said = ending(about) if failed else ""
        if not failed and metrics is not None:
            names = [m.name for m in (metrics.target, metrics.kept) if m]
            names = [on_test(m) for m in names] if job == "test" else names
            values = [(n, standing.value(n)) for n in names]
            said = ", ".join(f"{n} {v:.4g}" for n, v in values if v is not None)
        counts = list(self.counts().values())
        done, total = (
            sum(c[FINISHED] + c[FAILED] for c in counts),
            sum(sum(c.values()) - c["tested"] for c in counts),
        )
        left = remaining(self.scheduler, self.workers)
        time_left = f"; about {spoken(left)} to go" if left and done < total else ""
        self._print(f"{done}/{total} {job} {of.label}: {said} ({about.get('seconds', 0):.1f} s{time_left})")

    def say(self, lines: list[str]) -> None:
        """Prints lines about the whole study."""
        if not self.quiet:
            for line in lines:
                self._print(line)

    def close(self) -> None:
        """Draws the table a last time and ends the live display."""
        if self.live is not None:
            self.show(force=True)
            self.live.stop()
