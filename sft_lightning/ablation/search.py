"""A search over ranges, by Optuna: it proposes settings, and stops those that do not look well; its journal is a file."""

import json
import logging
from typing import Any, Protocol

from sft_lightning.ablation.plan import Plan, Point
from sft_lightning.ablation.selection import Candidate, Metrics, or_zero
from sft_lightning.ablation.study import Arm, Study
from sft_lightning.ablation.study_dir import PointStatus, StudyDir
from sft_lightning.core.errors import UserError, nearest

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "qmc": "QMCSampler", "gp": "GPSampler"}


class Standings(Protocol):
    """What a search asks the scheduler: the study and its points, how each stands, and what a setting's points say."""

    study: Study
    plan: Plan
    folder: StudyDir
    width: int
    reads_only: bool

    @property
    def tune_seeds(self) -> list[int]: ...

    def look(self, point: Point) -> PointStatus: ...

    def metrics_of(self, cell: dict[str, Any]) -> Metrics | None: ...

    def candidate(self, group: list[Point], metrics: Metrics, wanted: int = 0) -> Candidate | None: ...


class Search:
    """The settings that Optuna has proposed for an arm in a cell, and what became of them.

    One objective with the rule `best`; two, target and kept, with `keep`, and then the study's rule chooses among all
    that were tried. With one objective and `prune`, a setting is given up after a seed at which it is worse than the
    median of the others (MedianPruner). Several processes may share the journal.
    """

    def __init__(self, scheduler: Standings, cell: dict[str, Any], arm: Arm) -> None:
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError:
            raise UserError(
                f"arms.{arm.name}.search: Optuna is not installed: pip install 'sft-lightning[search]'"
            ) from None
        assert arm.search is not None
        self.optuna, self.scheduler, self.cell, self.arm = optuna, scheduler, cell, arm
        self.trials = int(arm.search["trials"])
        logging.getLogger("optuna").setLevel(logging.WARNING)
        name = arm.search["sampler"]
        if name not in SAMPLERS:
            raise UserError(
                f"arms.{arm.name}.search.sampler: '{name}'{nearest(name, SAMPLERS)}; there are {', '.join(SAMPLERS)}"
            )
        sampler = getattr(optuna.samplers, SAMPLERS[name])(seed=scheduler.study.seeds[0])
        journal = scheduler.folder.journal
        self.two = scheduler.study.select.rule == "keep"
        prunes = arm.search["prune"] and not self.two
        about = {
            "study_name": json.dumps([arm.name, cell, arm.search["ranges"], self.two], sort_keys=True, default=str),
            "sampler": sampler,
            "pruner": optuna.pruners.MedianPruner(n_startup_trials=5) if prunes else optuna.pruners.NopPruner(),
        }
        up: list[Any] = ["maximize"] * (1 + self.two)  # values of which less is better are told with the other sign
        if not scheduler.reads_only:
            storage = JournalStorage(JournalFileBackend(str(journal)))
            self.study = optuna.create_study(storage=storage, directions=up, load_if_exists=True, **about)
            return
        try:  # a dry run writes nothing
            if not journal.is_file():
                raise KeyError
            self.study = optuna.load_study(storage=JournalStorage(JournalFileBackend(str(journal))), **about)
        except KeyError:
            self.study = optuna.create_study(directions=up, **about)

    def proposed(self, *states: str) -> list[Any]:
        """Trials in these states, or all; but for those that are being proposed, or whose proposer was killed at it."""
        assert self.arm.search is not None
        wanted = [getattr(self.optuna.trial.TrialState, s) for s in states]
        trials = self.study.get_trials(deepcopy=False, states=wanted or None)
        return [t for t in trials if len(t.params) == len(self.arm.search["ranges"])]

    @property
    def over(self) -> bool:
        """Whether all trials are done."""
        return len(self.proposed()) >= self.trials and not self.proposed("RUNNING")

    def setting(self, trial: Any) -> dict[str, Any]:
        """A trial's setting, in the order of the ranges."""
        assert self.arm.search is not None
        return {key: trial.params[key] for key in self.arm.search["ranges"]}

    def points(self) -> list[Point]:
        """Of all settings proposed so far; of one that was given up, those that were run."""
        points: dict[str, Point] = {}
        for trial in self.proposed():
            for point in self._of(trial):
                if trial.state.name != "PRUNED" or self.scheduler.look(point).over:
                    points[point.id] = point
        return list(points.values())

    def _of(self, trial: Any) -> list[Point]:
        setting, plan, study = self.setting(trial), self.scheduler.plan, self.scheduler.study
        folds: list[int | None] = [None] if study.folds is None else list(range(study.folds))
        return [plan.point(self.arm, self.cell, setting, s, f) for s in self.scheduler.tune_seeds for f in folds]

    def look(self) -> None:
        """Tells Optuna what is finished, and asks for as many settings as can be worked on.

        A setting that was tried already is finished as it is proposed, so this goes on until nothing changes.
        """
        if self.scheduler.reads_only:
            return
        done = -1
        while done != len(self.proposed()) - len(self.proposed("RUNNING")):
            done = len(self.proposed()) - len(self.proposed("RUNNING"))
            for trial in self.proposed("RUNNING"):
                self._tell(trial)
            while len(self.proposed()) < self.trials and len(self.proposed("RUNNING")) < self.scheduler.width:
                self._ask()

    def _ask(self) -> None:
        assert self.arm.search is not None
        trial = self.study.ask()
        for key, about in self.arm.search["ranges"].items():
            if isinstance(about, list):
                trial.suggest_categorical(key, about)
            elif isinstance(about["low"], int) and isinstance(about["high"], int):
                trial.suggest_int(
                    key, about["low"], about["high"], step=about.get("step", 1), log=bool(about.get("log"))
                )
            else:
                trial.suggest_float(
                    key, about["low"], about["high"], step=about.get("step"), log=bool(about.get("log"))
                )

    def _tell(self, trial: Any) -> None:
        scheduler, points = self.scheduler, self._of(trial)
        standings = [scheduler.look(p) for p in points]
        metrics = scheduler.metrics_of(self.cell)
        if any(s.status == "failed" for s in standings):
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            return
        finished = [p for p, s in zip(points, standings, strict=True) if s.finished]
        if not finished or metrics is None:
            return
        found = scheduler.candidate(finished, metrics)
        if found is None:
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            return
        target = metrics.target.sign * found.target
        if len(finished) == len(points):
            kept = (metrics.kept.sign if metrics.kept else 1) * or_zero(found.kept)
            self.study.tell(trial.number, [target, kept] if self.two else target)
        elif not self.two:
            live = self.optuna.trial.Trial(self.study, trial._trial_id)
            live.report(target, len(finished))
            if live.should_prune():
                self.study.tell(trial.number, state=self.optuna.trial.TrialState.PRUNED)
