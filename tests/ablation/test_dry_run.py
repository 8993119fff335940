"""What a study has yet to do is counted whole, known or not, and costs what points like it cost."""

import json
from functools import reduce

import pytest

from sft_lightning.ablation.dry_run import LISTED, show
from sft_lightning.ablation.plan import Plan
from sft_lightning.ablation.progress import remaining, work
from sft_lightning.ablation.scheduler import Scheduler
from sft_lightning.ablation.study import make_study
from sft_lightning.ablation.study_dir import StudyDir
from sft_lightning.config.overrides import merged

BASE = {
    "seed_everything": 0,
    "model": {"class_path": "PlainSFT", "init_args": {"lr": 0.001}},
    "data": {"class_path": "Digits", "init_args": {"subset_seed": 0, "folds": None, "fold": None}},
}
RATES = {"tune": {"model.lr": [0.001, 0.003, 0.01]}}
TASK = {"name": "classification", "num_outputs": 2, "labels": ["a", "b"], "metrics": ["accuracy"]}


@pytest.fixture
def scheduler(tmp_path):
    """`scheduler(arms={…}, seeds=3)`: the state of a study that has a folder of its own, and no run in it."""

    def make(width=1, **content):
        study = make_study({"base": BASE, "arms": {"plain": RATES}, **content}, tmp_path, "mine")
        found = Scheduler(
            study,
            Plan(study, lambda layers: reduce(merged, layers, {})),
            StudyDir(tmp_path / "runs/mine"),
            width=width,
        )
        found.folder.make()
        return found

    return make


def ends(scheduler, point, fit=None, test=None, code=0):
    """A point's fit, or its test, is over after so many seconds."""
    note = {k: {"exit": code, "seconds": v} for k, v in (("fit", fit), ("test", test)) if v is not None}
    scheduler.folder.note(point.id).write_text(json.dumps(note))
    if code == 0:
        scheduler.folder.run(point.id).path.mkdir(exist_ok=True)
        record = {"status": "finished", "metrics": {"val/accuracy": {"selected": 0.9}}, "task": TASK}
        record |= {"test": {"test/accuracy": 0.9}} if test is not None else {}
        scheduler.folder.run(point.id).record.write_text(json.dumps(record))
    scheduler.standing.pop(point.id, None)


def said(scheduler, capsys, workers=1, open_size=False):
    scheduler.reads_only = True
    show(scheduler, workers, open_size)
    return capsys.readouterr().out


class TestWhatIsLeft:
    def test_has_the_fits_of_a_chosen_setting_that_nobody_knows_yet(self, scheduler, capsys):
        arms = {"plain": {"tune": {"model.lr": [0.001, 0.002, 0.003, 0.004, 0.005]}}}
        study = scheduler(arms=arms, seeds=10, tune_seeds=5, folds=2)
        ends(study, study.all_points()[0], fit=60)
        out = said(study, capsys)
        assert "60 fits and 10 tests" in out
        assert "about 59 min to go" in out, (
            f"59 fits of a minute each are left, 10 of them of the chosen setting:\n{out}"
        )
        assert remaining(study, 1) == 59 * 60, "the line of a running study does not say what the dry run says"
        assert remaining(study, 2) == 59 * 30, "two workers take half the time"

    def test_has_the_seeds_that_were_not_tuned_on(self, scheduler):
        study = scheduler(seeds=5, tune_seeds=2)
        (todo,) = work(study)
        assert (todo.tuning, todo.refits, todo.tests) == (3 * 2, 3, 5)
        assert (todo.fits_left, todo.tests_left) == (3 * 2 + 3, 5)

    def test_counts_them_one_by_one_once_the_setting_is_chosen(self, scheduler):
        study = scheduler(seeds=5, tune_seeds=2)
        for point in study.all_points():
            ends(study, point, fit=10)
        (todo,) = work(study)
        assert (todo.fits_left, todo.tests_left, todo.unchosen) == (3, 5, 0)
        ends(study, todo.points[-1], fit=10, test=2)
        ends(study, todo.points[-2], fit=10, code=1)
        (todo,) = work(study)
        assert (todo.fits_left, todo.tests_left) == (1, 3), "one is tested, one failed: neither asks for anything more"

    def test_has_the_trials_that_a_search_has_not_proposed_yet(self, scheduler):
        search = {"trials": 8, "sampler": "random", "ranges": {"model.lr": {"low": 0.001, "high": 0.1}}}
        study = scheduler(arms={"plain": {"search": search}}, seeds=3, tune_seeds=2, width=3)
        (todo,) = work(study)
        assert (len(todo.points), todo.unproposed, todo.unchosen) == (3 * 2, 5 * 2, 1)
        assert (todo.tuning, todo.fits_left) == (8 * 2, 8 * 2 + 1)

    def test_is_one_fit_where_two_arms_ask_for_the_same_run(self, scheduler):
        search = {"trials": 1, "sampler": "random", "ranges": {"model.lr": [0.001]}}
        arms = {"plain": {}, "searched": {"search": search}}
        todo = work(scheduler(arms=arms, seeds=2))
        assert [w.fits_left for w in todo] == [2, 0]

    def test_is_nothing_when_all_is_tested(self, scheduler, capsys):
        study = scheduler(arms={"plain": {}}, seeds=2)
        for point in study.all_points():
            ends(study, point, fit=10, test=1)
        assert "cost: nothing is left to do" in said(study, capsys)
        assert remaining(study, 1) == 0


class TestItsCost:
    def test_goes_by_each_arms_own_fits_and_else_by_all(self, scheduler):
        arms = {"plain": {}, "slow": {"set": {"model.x": 1}}, "new": {"set": {"model.x": 2}}}
        study = scheduler(arms=arms, seeds=2)
        first = {p.arm: p for p in reversed(study.all_points())}
        ends(study, first["plain"], fit=10)
        ends(study, first["slow"], fit=90)
        assert remaining(study, 1) == 10 + 90 + 2 * 50, "one of plain's, one of slow's, two of which nothing is known"

    def test_has_tests_once_one_is_done_and_says_so_before(self, scheduler, capsys):
        study = scheduler(arms={"plain": {}}, seeds=4)
        first, second, *rest = study.all_points()
        ends(study, first, fit=60)
        out = said(study, capsys)
        assert "about 3 min to go" in out and "tests not counted" in out
        ends(study, first, fit=60, test=20)
        ends(study, second, fit=60)
        out = said(study, capsys)
        assert "not counted" not in out
        assert remaining(study, 1) == len(rest) * 60 + 3 * 20, "two fits and three tests are left"

    def test_is_not_known_before_a_fit_is_done(self, scheduler, capsys):
        assert "cost: not known before the first point is finished" in said(scheduler(), capsys)


class TestADryRunsTable:
    def test_lists_the_points_of_a_small_study_and_those_to_come(self, scheduler, capsys):
        axes = {"data.shots": [5, [1, 2]]}
        study = scheduler(arms={"plain": RATES, "fixed": {"set": {"model.x": 1}}}, axes=axes, seeds=2, tune_seeds=1)
        ends(study, study.all_points()[0], fit=10)
        out = said(study, capsys)
        rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
        for point in study.all_points():
            row = rows.get(point.id, "")
            shown = [point.arm, str(point.cell["shots"]), str(point.seed), study.look(point).status]
            shown += [f"lr {v}" for v in point.setting.values()]
            assert all(s in row for s in shown), f"{point.label} is not shown as {shown}:\n{out}"
        assert out.count("the one that is chosen") == 2, f"each cell's plain has a fit to come:\n{out}"

    def test_keeps_to_a_hundred_columns(self, scheduler, capsys):
        rates = {f"model.{name}": [0.1, [1, 2, 3]] for name in ("head_lr_factor", "decoupled_weight", "temperature")}
        arms = {"distill-source-logits-with-temperature": {"tune": rates}}
        for seeds in (2, LISTED):
            study = scheduler(arms=arms, axes={"data.train_fraction": [0.5]}, seeds=seeds)
            table = said(study, capsys).partition("fits and")[0].splitlines()[:-1]
            assert max(map(len, table)) <= 100, "it is wider than 100 columns:\n" + "\n".join(table)
            assert "…" not in "".join(table), "a value is cut off:\n" + "\n".join(table)

    def test_says_which_trials_are_still_to_be_proposed(self, scheduler, capsys):
        search = {"trials": 4, "ranges": {"model.lr": {"low": 0.001, "high": 0.1, "log": True}}}
        out = said(scheduler(arms={"plain": {"search": search}}, seeds=2), capsys)
        assert "8 more" in out and "as the search proposes" in out and "8 fits and 2 tests" in out

    def test_names_the_folds(self, scheduler, capsys):
        out = said(scheduler(folds=2, seeds=1), capsys)
        assert "fold" in out.splitlines()[0] + out.splitlines()[1], f"there is no column for the fold:\n{out}"
        assert "7 fits and 1 tests" in out and "1 more" in out

    def test_of_a_large_study_shows_the_arms_and_says_where_the_points_are(self, scheduler, capsys):
        study = scheduler(seeds=LISTED)
        out = said(study, capsys)
        assert study.all_points()[0].id not in out and "lr 0.001, 0.003, 0.01" in out
        assert f"lists the points of up to {LISTED} fits" in out and "points.csv" in out
        assert f"{3 * LISTED} fits and {LISTED} tests" in out

    def test_says_what_a_budget_has_yet_to_settle(self, scheduler, capsys):
        study = scheduler(seeds=5)
        study.n_seeds, study.only_tune = 1, True
        assert "1 seed (the budget says how many more);" in said(study, capsys)
        found = said(study, capsys, open_size=True)
        assert "1 seed (the budget says how many more, and how large the grids are);" in found


# ---- the jobs that are due ----


def test_a_point_is_not_tested_while_it_is_fitted_again(scheduler):
    """Its weights were removed; the checkpoint that the new fit writes meanwhile is no finished one."""
    found = scheduler(arms={"plain": {"tune": {"model.lr": [0.001]}}}, seeds=1)
    (point,) = found.all_points()
    ends(found, point, fit=1.0)
    assert found.jobs() == [("fit", point.id)]
    found.under_way.add(("fit", point.id))
    run = found.folder.run(point.id)
    run.best.parent.mkdir()
    run.best.touch()
    assert found.jobs() == []
    found.ended("fit", point.id)
    assert found.jobs() == [("test", point.id)]
