"""A search over ranges, by Optuna: it proposes settings, and stops those that do not look well; its journal is a file."""

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
    """The settings that Optuna has proposed for an arm in a cell, and what became of them.

    One objective with the rule `best`; two, target and kept, with `keep`, and then the study's rule chooses among all
    that were tried. With one objective and `prune`, a setting is given up after a seed at which it is worse than the
    median of the others (MedianPruner). Several processes may share the journal.

    Args:
        arm: The arm whose ranges are searched.
        cell: The study's cell.
        journal: Optuna's journal.
        status: How a point stands.
        points: The points of a setting: one for each seed and fold.
        score: Target and kept over finished points, larger is better for both. Empty where a value is missing,
            None while the metrics are not known.
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
                f"arms.{arm.name}.search", "Optuna is not installed", "pip install 'sft-lightning[search]'"
            ) from None
        assert arm.search is not None
        self.optuna, self.arm, self.two, self.reads_only = optuna, arm, two, reads_only
        self._status, self._points, self._score = status, points, score
        self.trials = int(arm.search["trials"])
        logging.getLogger("optuna").setLevel(logging.WARNING)
        name = arm.search["sampler"]
        if name not in SAMPLERS:
            raise UserError(
                f"arms.{arm.name}.search.sampler", f"'{name}'{nearest(name, SAMPLERS)}; there are {', '.join(SAMPLERS)}"
            )
        sampler = getattr(optuna.samplers, SAMPLERS[name])(seed=seed)
        prunes = arm.search["prune"] and not self.two
        about = {
            "study_name": json.dumps([arm.name, cell, arm.search["ranges"], self.two], sort_keys=True, default=str),
            "sampler": sampler,
            "pruner": optuna.pruners.MedianPruner(n_startup_trials=5) if prunes else optuna.pruners.NopPruner(),
        }
        up: list[Any] = ["maximize"] * (1 + self.two)  # values of which less is better are told with the other sign
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
            for point in self._points(self.setting(trial)):
                if trial.state.name != "PRUNED" or self._status(point).over:
                    points[point.id] = point
        return list(points.values())

    def look(self, width: int) -> None:
        """Tells Optuna what is finished, and asks for settings until `width` of them are under way.

        A setting that was tried already is finished as it is proposed, so this goes on until nothing changes.
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
