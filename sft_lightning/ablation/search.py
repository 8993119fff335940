"""Searches an arm's ranges with Optuna, which proposes settings, prunes weak ones, and keeps its journal in a file."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sft_lightning.ablation.plan import Point
from sft_lightning.ablation.study import Arm
from sft_lightning.ablation.study_dir import PointStatus
from sft_lightning.core.errors import UserError, nearest

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "qmc": "QMCSampler", "gp": "GPSampler"}


class Search:
    """Proposes settings for an arm in a cell, and tells Optuna their results.

    The rule `best` has one objective. The rule `keep` has two, target and kept; the study's rule then chooses among all
    settings that were tried. With one objective and `prune`, a setting is stopped after a seed at which it is worse than the
    median of the others (MedianPruner). Several processes may share the journal.

    Args:
        arm: The arm whose ranges are searched.
        cell: The study's cell.
        journal: File of Optuna's journal.
        status: Returns the status of a point.
        points: Returns the points of a setting, one for each seed and fold.
        score: Returns target and kept over finished points; larger is better for both. Empty if a value is missing,
            None while the metrics are unknown.
        two: Whether there are two objectives.
        seed: Seed of the sampler.
        reads_only: Proposes nothing and writes nothing.
    """

    def __init__(
        self,
        arm: Arm,
        cell: dict[str, Any],
        journal: Path,
        status: Callable[[Point], PointStatus],
        points: Callable[[dict[str, Any]], list[Point]],
        score: Callable[[list[Point]], tuple[float, ...] | None],
        two: bool,
        seed: int,
        reads_only: bool = False,
    ) -> None:
        try:
            import optuna
            from optuna.storages import JournalStorage
            from optuna.storages.journal import JournalFileBackend
        except ImportError:
            raise UserError(
                f"arms.{arm.name}.search", "Optuna is not installed", "run pip install 'sft-lightning[search]'"
            ) from None
        assert arm.search is not None
        self.optuna, self.arm, self.two, self.reads_only = optuna, arm, two, reads_only
        self._status, self._points, self._score = status, points, score
        self.trials = int(arm.search["trials"])
        logging.getLogger("optuna").setLevel(logging.WARNING)
        name = arm.search["sampler"]
        if name not in SAMPLERS:
            raise UserError(
                f"arms.{arm.name}.search.sampler",
                f"'{name}' is unknown{nearest(name, SAMPLERS)}",
                f"use one of {', '.join(SAMPLERS)}",
            )
        sampler = getattr(optuna.samplers, SAMPLERS[name])(seed=seed)
        prunes = arm.search["prune"] and not self.two
        about = {
            "study_name": json.dumps([arm.name, cell, arm.search["ranges"], self.two], sort_keys=True, default=str),
            "sampler": sampler,
            "pruner": optuna.pruners.MedianPruner(n_startup_trials=5) if prunes else optuna.pruners.NopPruner(),
        }
        up: list[Any] = ["maximize"] * (1 + self.two)  # scores of metrics to minimise have the other sign
        if not reads_only:
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
        """Trials in these states, or in any. Trials without all parameters are left out: another process is proposing them, or
        was killed while it did.
        """
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
        """The points of all settings proposed so far; of a pruned setting, only those that ended."""
        points: dict[str, Point] = {}
        for trial in self.proposed():
            for point in self._points(self.setting(trial)):
                if trial.state.name != "PRUNED" or self._status(point).over:
                    points[point.id] = point
        return list(points.values())

    def look(self, width: int) -> None:
        """Reports finished settings to Optuna, and asks for new ones until `width` settings are running.

        A proposed setting may have finished points already, so both steps repeat until no more trials end.
        """
        if self.reads_only:
            return
        done = -1
        while done != len(self.proposed()) - len(self.proposed("RUNNING")):
            done = len(self.proposed()) - len(self.proposed("RUNNING"))
            for trial in self.proposed("RUNNING"):
                self._tell(trial)
            while len(self.proposed()) < self.trials and len(self.proposed("RUNNING")) < width:
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
        points = self._points(self.setting(trial))
        statuses = [self._status(p) for p in points]
        if any(s.status == "failed" for s in statuses):
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            return
        finished = [p for p, status in zip(points, statuses, strict=True) if status.finished]
        score = self._score(finished) if finished else None
        if score is None:
            return
        if not score:
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
        elif len(finished) == len(points):
            self.study.tell(trial.number, list(score) if self.two else score[0])
        elif not self.two:
            live = self.optuna.trial.Trial(self.study, trial._trial_id)
            live.report(score[0], len(finished))
            if live.should_prune():
                self.study.tell(trial.number, state=self.optuna.trial.TrialState.PRUNED)
