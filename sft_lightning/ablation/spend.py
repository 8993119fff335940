"""A study that takes as much as a budget of time pays for: settled by what its first points cost, before any test."""

import json
from hashlib import sha256
from statistics import fmean
from typing import Any

from sft_lightning.ablation.budget import SLACK, fits_of, seeds_for, size_for
from sft_lightning.ablation.cost import seconds_of_fit, seconds_of_test
from sft_lightning.ablation.engine import Engine
from sft_lightning.ablation.plan import Point
from sft_lightning.ablation.study import Study

LEAST_SEEDS = 3
"""Fewer show no spread"""


class Budget:
    """What a budget has settled so far.

    Where there are smaller studies to fall back on, one fit of the baseline is timed first, which says how large a study is
    paid for. Then the first seed's points say how many seeds.

    Args:
        seconds: Wall time that there is.
        sizes: The study, then ever smaller ones, each with what it leaves out.
        held: What an earlier start noted in study.json; it counts where its budget and its study were the same.
    """

    def __init__(self, seconds: float, sizes: list[tuple[Study, tuple[str, ...]]], held: Any = None) -> None:
        self.seconds, self.sizes = seconds, sizes
        whole = [[study.content, study.base] for study, _ in sizes]
        self.of = sha256(json.dumps([seconds, whole], sort_keys=True, default=str).encode()).hexdigest()[:12]
        before = held if isinstance(held, dict) and held.get("of") == self.of else {}
        self.size: int | None = before.get("size", 0 if len(sizes) == 1 else None)
        self.seeds: int | None = before.get("seeds")
        self.why: list[str] = before.get("why", [])

    @property
    def record(self) -> dict[str, Any]:
        """`budget` of study.json."""
        settled = {"size": self.size, "left_out": self.left_out, "seeds": self.seeds, "why": self.why}
        return {"seconds": self.seconds, "of": self.of, **settled}

    @property
    def left_out(self) -> list[str]:
        """What the whole study has and this one has not."""
        return [] if self.size is None else list(self.sizes[self.size][1])

    def begin(self, engine: Engine) -> None:
        """Puts the study where an earlier start left it, or at its beginning."""
        if self.size:
            engine.resize(self.sizes[self.size][0])
        if self.seeds is None:
            engine.n_seeds, engine.only_tune = 1, True
            engine.only = None if self.size is not None else timed(engine)
        else:
            engine.n_seeds = self.seeds

    def settle(self, engine: Engine, workers: int) -> bool:
        """Settles what can be settled now that nothing is due; False where all is."""
        if self.seeds is not None:
            return False
        if self.size is None:
            self.settle_size(engine, workers)
        else:
            self.settle_seeds(engine, workers)
        return True

    def settle_size(self, engine: Engine, workers: int) -> None:
        """How large a study one fit's time allows; the smallest where that fit failed."""
        point, engine.only = engine.only, None
        fit = None if point is None else seconds_of_fit(engine.look(point))
        if point is None or fit is None:
            self.size = len(self.sizes) - 1
            self.why.append(f"{'; '.join(self.left_out)}: the fit that was to be timed failed")
        else:
            test = seconds_of_test(engine.look(point), point.config)
            self.size, said = size_for(self.seconds, [cost_of(study, fit, test) for study, _ in self.sizes], workers)
            self.why.append(f"{'; '.join(self.left_out) or 'the whole study'}: {said}")
        if self.size:
            engine.resize(self.sizes[self.size][0])

    def settle_seeds(self, engine: Engine, workers: int) -> None:
        """How many seeds the first seed's points allow."""
        fits: dict[str, list[float]] = {}
        tests: dict[str, list[float]] = {}
        for point in engine.all_points():
            standing, arm = engine.look(point), f"{point.arm} {point.cell}"
            if point.seed == engine.seeds[0] and (fit := seconds_of_fit(standing)) is not None:
                fits.setdefault(arm, []).append(fit)
                tests.setdefault(arm, []).append(seconds_of_test(standing, point.config))
        tuned, test = sum(map(sum, fits.values())), sum(map(fmean, tests.values()))
        chosen, tune_seeds = sum(map(fmean, fits.values())), len(engine.study.tune_seeds)

        def cost(n: int) -> float:
            return min(n, tune_seeds) * tuned + max(0, n - tune_seeds) * chosen + n * test

        most = len(engine.study.seeds)
        self.seeds, said = seeds_for(self.seconds, cost, workers, min(LEAST_SEEDS, most), most)
        self.why.append(said)
        engine.n_seeds, engine.only_tune = self.seeds, False


def timed(engine: Engine) -> Point:
    """The baseline's middle setting on all labels with the first seed: a point that the study may ask for anyway."""
    study = engine.study
    arm = study.arm(study.baseline)
    setting = arm.settings[len(arm.settings) // 2]
    return engine.plan.final(arm, study.cells[0], setting, study.seeds[:1])[0]


def cost_of(study: Study, fit: float, test: float) -> float:
    """Seconds of a study with the fewest seeds, one run after another, by one fit of the baseline and its test."""
    seeds = min(LEAST_SEEDS, len(study.seeds))
    fits = fits_of([len(arm.settings) for arm in study.arms], len(study.tune_seeds), study.folds, seeds)
    return len(study.cells) * (fits * fit * SLACK + len(study.arms) * seeds * test)
