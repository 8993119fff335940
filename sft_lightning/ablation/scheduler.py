"""Finds a study's due jobs from the status of its points: tuning, then the choice, then tests of the chosen points."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sft_lightning.ablation.plan import Plan, Point
from sft_lightning.ablation.search import Search
from sft_lightning.ablation.selection import Candidate, Metrics, candidate, choose, metrics_of, or_zero
from sft_lightning.ablation.study import Arm, Study
from sft_lightning.ablation.study_dir import PointStatus, StudyDir
from sft_lightning.runs.status import FAILED

Job = tuple[str, str]
"""('fit', 'test' or 'time', point id)"""


@dataclass
class Choice:
    """The choice of an arm's setting in a cell."""

    arm: str
    cell: dict[str, Any]
    setting: dict[str, Any] | None
    """The chosen setting; None if no setting has a finished point"""
    why: str
    candidates: list[tuple[Candidate, bool]]
    """(candidate, whether the rule allowed it)"""
    points: list[Point] = field(default_factory=list)
    """Points of the chosen setting, one for each seed"""
    tested_before: list[dict[str, Any]] = field(default_factory=list)
    """Other settings that were tested, as they were the choice before the study grew"""


class Scheduler:
    """Finds the due jobs and the choices of a study.

    Args:
        study: The study.
        plan: Makes the study's points.
        folder: The study's folder.
        seeds: Number of the study's seeds to run; None for all.
        width: Number of points that run at a time, which is the number of settings that a search proposes at a time.
    """

    def __init__(self, study: Study, plan: Plan, folder: StudyDir, seeds: int | None = None, width: int = 1) -> None:
        self.study, self.plan, self.folder, self.n_seeds, self.width = study, plan, folder, seeds, width
        self.only_tune = False
        self.timing: list[Point] = []  # fits whose first steps are timed before all other jobs
        self.timing_s = 0.0  # seconds of each timed fit
        self.standing: dict[str, PointStatus] = {}
        self.reads_only = False  # a dry run proposes no settings
        self.points: dict[str, Point] = {}
        self.under_way: set[Job] = set()
        self._searches: dict[str, Search] = {}

    @property
    def seeds(self) -> list[int]:
        return self.study.seeds[: self.n_seeds]

    @property
    def tune_seeds(self) -> list[int]:
        return [s for s in self.study.tune_seeds if s in self.seeds]

    @property
    def report_seeds(self) -> list[int]:
        """Seeds of the chosen settings' tested runs."""
        fresh = self.study.report_seeds
        return self.seeds if fresh is None else fresh[: self.n_seeds]

    def resize(self, study: Study) -> None:
        """Replaces the study; points that both studies have keep their results."""
        self.study, self.plan = study, self.plan.of(study)
        self.points.clear()
        self._searches.clear()

    # ---- points ----

    def places(self) -> Iterator[tuple[dict[str, Any], Arm]]:
        """All pairs (cell, arm)."""
        for cell in self.study.cells:
            for arm in self.study.arms:
                yield cell, arm

    def look(self, point: Point) -> PointStatus:
        """A point's status, which is read from disk once and after each of the point's jobs."""
        self.points.setdefault(point.id, point)
        if point.id not in self.standing:
            self.standing[point.id] = self.folder.standing(point.id)
        return self.standing[point.id]

    def ended(self, job: str, point: str) -> None:
        """Reads a point's status again after one of its jobs, and updates the searches."""
        self.under_way.discard((job, point))
        self.standing[point] = self.folder.standing(point)
        for search in self._searches.values():
            search.look(self.width)

    def tuning(self, cell: dict[str, Any], arm: Arm) -> list[Point]:
        """The points by which an arm's setting is chosen; empty if there is only one setting."""
        if arm.search is not None:
            return self.search(cell, arm).points()
        if len(arm.settings) == 1:
            return []
        return list(self.plan.tuning(arm, cell, self.tune_seeds))

    def search(self, cell: dict[str, Any], arm: Arm) -> Search:
        key = f"{arm.name} {cell}"
        if key not in self._searches:
            self._searches[key] = Search(
                arm,
                cell,
                self.folder.journal,
                status=self.look,
                points=lambda setting: self.tried(cell, arm, setting),
                score=lambda finished: self.score(cell, finished),
                two=self.study.select.rule == "keep",
                seed=self.study.seeds[0],
                reads_only=self.reads_only,
            )
            self._searches[key].look(self.width)
        return self._searches[key]

    def tried(self, cell: dict[str, Any], arm: Arm, setting: dict[str, Any]) -> list[Point]:
        """The tuning points of a setting that a search proposed."""
        folds: list[int | None] = [None] if self.study.folds is None else list(range(self.study.folds))
        return [self.plan.point(arm, cell, setting, s, f) for s in self.tune_seeds for f in folds]

    def score(self, cell: dict[str, Any], finished: list[Point]) -> tuple[float, ...] | None:
        """Target and kept over finished points; larger is better. Empty if a value is missing, None without metrics."""
        metrics = self.metrics_of(cell)
        if metrics is None:
            return None
        found = self.candidate(finished, metrics)
        if found is None:
            return ()
        kept = metrics.kept.sign if metrics.kept else 1
        return metrics.target.sign * found.target, kept * or_zero(found.kept)

    # ---- what is due ----

    def choice(self, cell: dict[str, Any], arm: Arm) -> Choice | None:
        """The arm's choice in a cell; None while tuning points are due."""
        if arm.path is not None:
            return self.along(cell, arm)
        if arm.search is None and len(arm.settings) == 1:
            setting = arm.settings[0]
            return Choice(
                arm.name, cell, setting, "the only setting", [], self.plan.final(arm, cell, setting, self.report_seeds)
            )
        points = self.tuning(cell, arm)
        if not all(self.look(p).over for p in points):
            return None
        if arm.search is not None and not self.search(cell, arm).over:
            return None
        return self.chosen(cell, arm, points)

    def along(self, cell: dict[str, Any], arm: Arm) -> Choice | None:
        """The choice of an arm that trains nothing: a point on the path of each chosen run of another arm."""
        assert arm.path is not None
        of = self.choice(cell, self.study.arm(arm.path.of))
        if of is None:
            return None
        points = [self.plan.along(arm, p) for p in of.points if self.look(p).status != FAILED]
        if not points:
            return Choice(arm.name, cell, None, f"no point of {of.arm} is finished", [])
        found = [((self.look(p).record or {}).get("after") or {}).get("alpha") for p in points]
        return Choice(arm.name, cell, {}, arm.path.says([a for a in found if a is not None]), [], points)

    def chosen(self, cell: dict[str, Any], arm: Arm, points: list[Point]) -> Choice:
        """Chooses a setting by the finished points."""
        metrics = self.metrics_of(cell)
        grouped: dict[str, list[Point]] = {}
        for point in points:
            grouped.setdefault(str(point.setting), []).append(point)
        candidates = []
        wanted = len(self.tune_seeds) * (self.study.folds or 1)
        for group in grouped.values():
            found = None if metrics is None else self.candidate(group, metrics, wanted)
            if found is not None:
                candidates.append(found)
        if not candidates or metrics is None:
            return Choice(arm.name, cell, None, "no point of the arm is finished", [])
        best, reach, why = choose(candidates, self.study.select, metrics)
        if broken := len(grouped) - sum(c.whole for c in candidates):
            why += f"; {broken} settings that failed or were given up are passed over"
        final = self.plan.final(arm, cell, best.setting, self.report_seeds)
        before = []
        for group in grouped.values():
            setting = group[0].setting
            ever = [*self.study.seeds, *(self.study.report_seeds or [])]
            tested = (self.look(p).tested for p in [*group, *self.plan.final(arm, cell, setting, ever)])
            if setting != best.setting and any(tested):
                before.append(setting)
        if before:
            said = "; ".join(", ".join(f"{k} {v}" for k, v in self.study.shown(s).items()) for s in before)
            why += f"; tested earlier, when it was the choice: {said}"
        return Choice(arm.name, cell, best.setting, why, list(zip(candidates, reach, strict=True)), final, before)

    def candidate(self, group: list[Point], metrics: Metrics, wanted: int = 0) -> Candidate | None:
        """A setting's means over its finished points; None if none has a target value."""
        finished = [self.look(p) for p in group if self.look(p).finished]
        kept = metrics.kept
        values = [(s.value(metrics.target.name), s.value(kept.name) if kept else None) for s in finished]
        return candidate(group[0].setting, values, wanted, [s.value("val/loss") for s in finished])

    def metrics_of(self, cell: dict[str, Any]) -> Metrics | None:
        """The rule's metrics in a cell, by the first finished point in the plan's order; None before a point is finished."""
        for arm in self.study.arms:
            several = arm.search is not None or arm.path is not None or len(arm.settings) > 1
            only = [] if several else self.first(cell, arm)
            for point in [*self.tuning(cell, arm), *only]:
                standing = self.look(point)
                if standing.finished and standing.record and standing.record.get("task"):
                    return metrics_of(self.study.select, standing.record)
        return None

    def first(self, cell: dict[str, Any], arm: Arm) -> list[Point]:
        """The points of an arm's only setting."""
        return self.plan.final(arm, cell, arm.settings[0], self.report_seeds)

    def jobs(self) -> list[Job]:
        """The jobs that can run now, the most urgent first: tests, then fits seed by seed."""
        if self.timing:
            self.points |= {p.id: p for p in self.timing}
            due = [p.id for p in self.timing if self.to_time(p.id)]
            return [("time", p) for p in due if ("time", p) not in self.under_way]
        tests: list[Job] = []
        order = [*self.study.seeds, *(self.study.report_seeds or [])]
        fits: list[tuple[int, Point]] = []
        for cell, arm in self.places():
            choice = self.choice(cell, arm)
            for point in self.tuning(cell, arm) if choice is None else choice.points:
                standing = self.look(point)
                if standing.status in ("queued", "interrupted"):
                    fits += [(order.index(point.seed), first) for first in self.to_fit(point)]
                elif choice is not None and not self.only_tune and standing.wants_test:
                    if self.folder.has_weights(point.id):
                        tests.append(("test", point.id))
                    else:  # its weights were removed while another setting was chosen
                        fits += [(order.index(point.seed), first) for first in self.to_fit(point)]
        fits.sort(key=lambda f: f[0])
        jobs = list(dict.fromkeys([*tests, *(("fit", point.id) for _, point in fits)]))
        busy = {point for _, point in self.under_way}  # a point that is fitted again has weights before that fit ends
        return [(job, point) for job, point in jobs if point not in busy]

    def to_fit(self, point: Point) -> list[Point]:
        """What can be fitted now for a point: itself; for one on a run's path that run if its weights were removed, and
        nothing while it is fitted.
        """
        if point.along is None:
            return [point]
        of = self.points[point.along[0]]
        if not self.look(of).finished or of.id in {p for job, p in self.under_way if job == "fit"}:
            return []
        return [point if self.folder.has_weights(of.id) else of]

    def to_time(self, point: str) -> bool:
        """Whether a fit's first steps are still to be timed. A quick fit is timed twice, as a process's first fit is slow."""
        about = self.folder.read_note(point).get("time", {})
        quick = about.get("exit") == 0 and about.get("seconds", self.timing_s) < self.timing_s
        return not about or (quick and about["attempts"] == 1)

    def elsewhere(self) -> int:
        """Number of points that other processes run: an earlier start, or a job. Their status will be read again."""
        ours = {point for _, point in self.under_way}
        held = [p.id for p in self.all_points() if self.look(p).status == "running" and p.id not in ours]
        for point in held:
            self.standing.pop(point)
        return len(held)

    def all_points(self) -> list[Point]:
        """All points known so far, in the table's order: cells, arms, settings, seeds, folds."""
        points: dict[str, Point] = {}
        for cell, arm in self.places():
            choice = self.choice(cell, arm)
            final = choice.points if choice else []
            for point in [*self.tuning(cell, arm), *final]:
                points.setdefault(point.id, point)
        return list(points.values())

    def retry(self) -> int:
        """Marks failed points to be retried; returns their number."""
        count = 0
        for point in self.all_points():
            standing = self.look(point)
            if standing.status == "failed" or standing.test_failed:
                self.folder.note(point.id).unlink(missing_ok=True)
                self.standing[point.id] = self.folder.standing(point.id)
                count += 1
        return count
