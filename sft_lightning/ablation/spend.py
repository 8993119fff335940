"""A study that takes as much as a budget of time pays for: settled by what its first points cost, before any test."""

from typing import Any

from sft_lightning.ablation.budget import fits_of, seeds_for, size_for
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
        held: What an earlier start noted in study.json; it counts where its budget was the same.
    """

    def __init__(self, seconds: float, sizes: list[tuple[Study, tuple[str, ...]]], held: Any = None) -> None:
        self.seconds, self.sizes = seconds, sizes
        before = held if isinstance(held, dict) and held.get("seconds") == seconds else {}
        size, seeds = before.get("size"), before.get("seeds")
        self.size: int | None = size if isinstance(size, int) and size < len(sizes) else None
        self.seeds: int | None = seeds if self.size is not None else None
        self.why: list[str] = before.get("why", []) if self.size is not None else []
        if self.size is None and len(sizes) == 1:
            self.size = 0

    @property
    def record(self) -> dict[str, Any]:
        """`budget` of study.json."""
        left_out = [] if self.size is None else list(self.sizes[self.size][1])
        return {"seconds": self.seconds, "size": self.size, "left_out": left_out, "seeds": self.seeds, "why": self.why}

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
        """How large a study one fit's time allows."""
        point, engine.only = engine.only, None
        spent = None if point is None else engine.look(point).of("fit").get("seconds")
        self.size = 0
        if spent is None:  # it failed: the study says so itself
            return
        fits = [fits_of_study(study) for study, _ in self.sizes]
        self.size, cost = size_for(self.seconds, spent, workers, fits)
        study, left_out = self.sizes[self.size]
        self.why.append(f"{'; '.join(left_out) or 'the whole study'}: {cost}")
        if self.size:
            engine.resize(study)

    def settle_seeds(self, engine: Engine, workers: int) -> None:
        """How many seeds the first seed's points allow."""
        spent: dict[str, list[float]] = {}
        for point in engine.all_points():
            if point.seed == engine.seeds[0]:
                seconds = engine.look(point).of("fit").get("seconds", 0.0)
                spent.setdefault(f"{point.arm} {point.cell}", []).append(seconds)
        first = sum(map(sum, spent.values()))
        # A seed that is not tuned on brings the chosen settings' points alone.
        alone = len(engine.study.tune_seeds) == 1
        each = sum(sum(s) / len(s) for s in spent.values()) if alone else first
        most = len(engine.study.seeds)
        fixed = first - each if alone else 0.0
        self.seeds, said = seeds_for(self.seconds, each, workers, min(LEAST_SEEDS, most), most, fixed)
        self.why.append(said)
        engine.n_seeds, engine.only_tune = self.seeds, False


def timed(engine: Engine) -> Point:
    """The baseline's middle setting on all labels with the first seed: a point that the study may ask for anyway."""
    study = engine.study
    arm = study.arm(study.baseline)
    setting = arm.settings[len(arm.settings) // 2]
    return engine.plan.final(arm, study.cells[0], setting, study.seeds[:1])[0]


def fits_of_study(study: Study) -> int:
    """Its number of fits with the fewest seeds."""
    settings = [len(arm.settings) for arm in study.arms]
    return len(study.cells) * fits_of(settings, len(study.tune_seeds), study.folds, min(LEAST_SEEDS, len(study.seeds)))
