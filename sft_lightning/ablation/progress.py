"""What a study shows while it runs: a live table in a terminal, else a line for each point."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sft_lightning.ablation.budget import spoken
from sft_lightning.ablation.engine import Engine


def remaining(engine: Engine, workers: int) -> float | None:
    """Seconds to go, as far as can be told: points to fit by their arm's mean time (else the mean of all), over the workers."""
    spent: dict[str, list[float]] = {}
    points = engine.all_points()
    for point in points:
        standing = engine.look(point)
        seconds = standing.of("fit").get("seconds")
        if standing.status == "finished" and seconds:
            spent.setdefault(point.arm, []).append(float(seconds))
    if not spent:
        return None
    every = [s for found in spent.values() for s in found]
    total = 0.0
    for point in points:
        if engine.look(point).status not in ("finished", "failed"):
            of_arm = spent.get(point.arm, every)
            total += sum(of_arm) / len(of_arm)
    return total / max(1, workers)


class Progress:
    """Shows how a study goes.

    Args:
        engine: The study's.
        workers: How many work at it.
        quiet: Show nothing.
    """

    def __init__(self, engine: Engine, workers: int, quiet: bool) -> None:
        self.engine, self.workers, self.quiet = engine, workers, quiet
        self.console = Console(file=sys.stdout, highlight=False)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal and not quiet else None
        self._shown = 0.0
        if self.live is not None:
            self.live.start()

    def counts(self) -> dict[str, dict[str, int]]:
        """Of each arm, how many points stand how."""
        found: dict[str, dict[str, int]] = {}
        fitting = {point for job, point in self.engine.under_way if job == "fit"}
        for point in self.engine.all_points():
            status = "running" if point.id in fitting else self.engine.look(point).status
            row = found.setdefault(point.arm, {"queued": 0, "running": 0, "finished": 0, "failed": 0, "tested": 0})
            row["queued" if status == "interrupted" else status] += 1
            row["tested"] += self.engine.look(point).tested
        return found

    def show(self, force: bool = False) -> None:
        """Draws the table anew, at most twice a second."""
        if self.live is None or (not force and time.monotonic() - self._shown < 0.5):
            return
        self._shown = time.monotonic()
        left = remaining(self.engine, self.workers)
        table = Table(title=None, caption=f"about {spoken(left)} to go" if left else None, caption_justify="left")
        table.add_column("arm")
        columns = ("queued", "running", "finished", "failed", "tested")
        for name in columns:
            table.add_column(name, justify="right")
        for arm, row in self.counts().items():
            table.add_row(arm, *(str(row[c]) if row[c] else "" for c in columns))
        self.live.update(table, refresh=True)

    def ended(self, job: str, point: str, note: dict[str, Any]) -> None:
        """A job is over."""
        about, of = note.get(job, {}), self.engine.points[point]
        failed = about.get("exit", 0) != 0
        if self.quiet or (self.live is not None and not failed):
            self.show()
            return
        standing = self.engine.look(of)
        metrics = self.engine.metrics_of(of.cell)
        said = f"failed: {about.get('reason')}" if failed else ""
        if not failed and metrics is not None:
            names = [m for m in (metrics.target, metrics.kept) if m]
            names = [f"test/{m.removeprefix('val/')}" for m in names] if job == "test" else names
            values = [(n, standing.value(n)) for n in names]
            said = ", ".join(f"{n} {v:.4g}" for n, v in values if v is not None)
        counts = list(self.counts().values())
        done, total = (
            sum(c["finished"] + c["failed"] for c in counts),
            sum(sum(c.values()) - c["tested"] for c in counts),
        )
        left = remaining(self.engine, self.workers)
        time_left = f"; about {spoken(left)} to go" if left and done < total else ""
        self.console.print(
            f"{done}/{total} {job} {of.label}: {said} ({about.get('seconds', 0):.1f} s{time_left})",
            markup=False,
            soft_wrap=True,
        )

    def say(self, lines: list[str]) -> None:
        """Something about the whole study."""
        if not self.quiet:
            for line in lines:
                self.console.print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Leaves the last table standing."""
        if self.live is not None:
            self.show(force=True)
            self.live.stop()
