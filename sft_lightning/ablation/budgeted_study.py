"""Fits a study's size and seeds to a time budget, by its first steps and first points, before any test."""

import json
from contextlib import suppress
from hashlib import sha256
from shutil import rmtree
from statistics import fmean
from typing import Any, NamedTuple

from sft_lightning.ablation.budget import LEAST_SEEDS, seeds_for, size_for, spoken
from sft_lightning.ablation.cost import seconds_of_fit, seconds_of_test
from sft_lightning.ablation.pace import Pace
from sft_lightning.ablation.plan import Point
from sft_lightning.ablation.scheduler import Scheduler
from sft_lightning.ablation.study import Arm, Study
from sft_lightning.config.overrides import put

TIMING_SHARE, LONGEST_TIMING = 0.05, 60.0
"""Limits of the timing of first steps: share of the budget, and seconds; the fewest steps are always made"""
TIMED_BATCHES = 4
"""Validation batches of a timed fit"""


class Sized(NamedTuple):
    """A study and its differences from the whole one."""

    study: Study
    left_out: tuple[str, ...] = ()
    """In words, the parts of the whole study that this one lacks"""
    tokens: float = 1.0
    """Share of the whole study's tokens that is left after texts are cut"""


class Budget:
    """Settles the size and the number of seeds of a study within a time budget.

    If smaller studies are given, the first steps of two arms are timed to choose the largest study within the budget. Then
    the times of the first seed's points give the number of seeds.

    Args:
        seconds: The budget, in seconds of wall time.
        sizes: The study, then ever smaller ones.
        held: `budget` of an earlier start's study.json; it is used if its budget and its study were the same.
    """

    def __init__(self, seconds: float, sizes: list[Sized], held: Any = None) -> None:
        self.seconds, self.sizes = seconds, sizes
        whole = [[size.study.content, size.study.base] for size in sizes]
        self.of = sha256(json.dumps([seconds, whole], sort_keys=True, default=str).encode()).hexdigest()[:12]
        before = held if isinstance(held, dict) and held.get("of") == self.of else {}
        self.size: int | None = before.get("size", 0 if len(sizes) == 1 else None)
        self.seeds: int | None = before.get("seeds")
        self.why: list[str] = before.get("why", [])
        self.pace: dict[str, Any] | None = before.get("pace")
        self.kept: bool | None = before.get("kept")

    @property
    def record(self) -> dict[str, Any]:
        """`budget` of study.json; `kept` is whether the study was foreseen to end within the budget."""
        settled = {"size": self.size, "left_out": self.left_out, "seeds": self.seeds, "why": self.why}
        return {"seconds": self.seconds, "of": self.of, **settled, "pace": self.pace, "kept": self.kept}

    @property
    def left_out(self) -> list[str]:
        """In words, the parts of the whole study that this one lacks."""
        return [] if self.size is None else list(self.sizes[self.size].left_out)

    def begin(self, scheduler: Scheduler) -> None:
        """Restores the size and seeds that an earlier start settled, else prepares the first seed's tuning."""
        if self.size:
            scheduler.resize(self.sizes[self.size].study)
        if self.seeds is None:
            scheduler.n_seeds, scheduler.only_tune = 1, True
        else:
            scheduler.n_seeds = self.seeds

    def begin_timing(self, scheduler: Scheduler, workers: int) -> list[str]:
        """Schedules the timed fits if the study's size is not settled; returns lines to print."""
        if self.size is not None:
            return []
        arms, seconds = timed_arms(scheduler.study), min(TIMING_SHARE * self.seconds, LONGEST_TIMING)
        each = seconds if workers >= len(arms) else seconds / len(arms)
        scheduler.timing, scheduler.timing_s = [timing_point(scheduler, arm, each) for arm in arms], each
        names = " and ".join(a.name for a in arms)
        return [f"budget  timing the first steps of {names}: about {spoken(seconds)} of the {spoken(self.seconds)}"]

    def settle(self, scheduler: Scheduler, workers: int) -> list[str] | None:
        """Settles the next open number once no job is due; returns lines to print, or None if all is settled."""
        if self.seeds is not None:
            return None
        said = len(self.why)
        if self.size is None:
            self.settle_size(scheduler, workers)
        else:
            self.settle_seeds(scheduler, workers)
        return [f"budget  {line}" for line in self.why[said:]]

    def settle_size(self, scheduler: Scheduler, workers: int) -> None:
        """Settles the study's size by the pace of the first steps; the smallest if they could not be timed."""
        pace, scheduler.timing = read_pace(scheduler), []
        if pace is None:
            self.size = len(self.sizes) - 1
            self.why.append(f"{'; '.join(self.left_out)}: the steps that were to be timed failed")
        else:
            self.pace = pace.record
            costs = [pace.study(size.study, size.tokens) for size in self.sizes]
            self.size, said = size_for(self.seconds, costs, workers)
            steps = ", ".join(f"{arm} {1000 * s:.3g} ms" for arm, s in pace.step_s.items())
            wall = [cost / max(1, workers) for cost in costs]
            self.why.append(f"a step of {steps}: the whole study would take about {spoken(wall[0])}")
            self.why.append(f"{'; '.join(self.left_out) or 'the whole study'}: {said}")
            self.kept = wall[self.size] <= self.seconds
            if not self.kept:
                self.why.append(
                    f"even the smallest study goes beyond the budget: --budget {whole_minutes(wall[self.size])} would do; "
                    "it runs anyway; stop it with Ctrl-C, and the same command resumes it"
                )
        if self.size:
            scheduler.resize(self.sizes[self.size].study)

    def settle_seeds(self, scheduler: Scheduler, workers: int) -> None:
        """Settles the number of seeds by the times of the first seed's points."""
        fits: dict[str, list[float]] = {}
        tests: dict[str, list[float]] = {}
        for point in scheduler.all_points():
            standing, arm = scheduler.look(point), f"{point.arm} {point.cell}"
            if point.seed == scheduler.seeds[0] and (fit := seconds_of_fit(standing)) is not None:
                fits.setdefault(arm, []).append(fit)
                tests.setdefault(arm, []).append(seconds_of_test(standing, point.config))
        tuned, test = sum(map(sum, fits.values())), sum(map(fmean, tests.values()))
        chosen, tune_seeds = sum(map(fmean, fits.values())), len(scheduler.study.tune_seeds)
        fresh = scheduler.study.report_seeds is not None  # the chosen settings are fitted once more, on other seeds

        def cost(n: int) -> float:
            more = n if fresh else max(0, n - tune_seeds)
            return min(n, tune_seeds) * tuned + more * chosen + n * test

        most = min(len(scheduler.study.seeds), len(scheduler.study.report_seeds or scheduler.study.seeds))
        self.seeds, said = seeds_for(self.seconds, cost, workers, min(LEAST_SEEDS, most), most)
        self.why.append(said)
        self.kept = cost(self.seeds) / max(1, workers) <= self.seconds
        scheduler.n_seeds, scheduler.only_tune = self.seeds, False


def timed_arms(study: Study) -> list[Arm]:
    """The arms to time: the baseline and, if there is one, an arm with a teacher."""
    baseline = study.arm(study.baseline)
    anchored = [a for a in study.arms if str(a.overlay.get("model", {}).get("class_path")).endswith("DistillSFT")]
    return [baseline, *(a for a in anchored[:1] if a.name != baseline.name)]


def timing_point(scheduler: Scheduler, arm: Arm, seconds: float) -> Point:
    """A fit of an arm's middle setting that ends after `seconds`. It is not one of the study's points."""
    study = scheduler.study
    setting = arm.settings[len(arm.settings) // 2]
    whole = scheduler.plan.final(arm, study.cells[0], setting, study.seeds[:1])[0]
    name = f"timing-{arm.name}"
    timer = {
        "class_path": "sft_lightning.ablation.step_timer.StepTimer",
        "init_args": {"seconds": seconds, "file": str(scheduler.folder.timing / f"{name}.json")},
    }
    trainer = whole.config["trainer"]
    callbacks = trainer.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    config = put(whole.config, "trainer.callbacks", [*callbacks, timer])
    limit = trainer.get("limit_val_batches")
    if limit is None or isinstance(limit, float) or limit > TIMED_BATCHES:
        config = put(config, "trainer.limit_val_batches", TIMED_BATCHES)
    config = put(config, "wandb", "disabled")
    return Point(name, arm.name, whole.cell, setting, whole.seed, None, config)


def read_pace(scheduler: Scheduler) -> Pace | None:
    """Reads the pace of the timed fits and removes their files; None if all of them failed."""
    folder, timed = scheduler.folder, {}
    for point in scheduler.timing:
        note, run = folder.read_note(point.id).get("time", {}), folder.timing / "timing" / point.id / "run.json"
        with suppress(OSError, ValueError):
            timed[point.arm] = (
                folder.timing / f"{point.id}.json",
                float(note.get("seconds", 0.0)),
                json.loads(run.read_text()),
            )
    pace = Pace.read(timed)
    rmtree(folder.timing, ignore_errors=True)
    for point in scheduler.timing:
        folder.note(point.id).unlink(missing_ok=True)
        folder.config(point.id).unlink(missing_ok=True)
    return pace


def whole_minutes(seconds: float) -> str:
    """Seconds rounded up to minutes, in the form of --budget: `45m`."""
    return f"{-(-int(seconds + 1) // 60)}m"
