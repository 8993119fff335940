"""A study file says what it means, and what is wrong with it."""

from pathlib import Path

import pytest

from sft_lightning.ablation.selection import Candidate, Metrics, candidate, choose
from sft_lightning.ablation.study import Select, make_study, read_study
from sft_lightning.config.overrides import merged, nested, put, short
from sft_lightning.core.metric_info import MetricInfo
from tests.refused import refused

ROOT = Path(__file__).resolve().parents[2]
BASE = str(ROOT / "experiments/digits/plain.yaml")


def study(**content):
    return make_study({"base": BASE, "arms": {"plain": {}}, **content}, ROOT, "mine")


def test_short_keys_stand_for_the_arguments_of_a_class():
    assert nested({"model.lr": 1, "data": {"shots_per_class": 5}, "trainer.max_epochs": 2}, "set") == {
        "model": {"init_args": {"lr": 1}},
        "data": {"init_args": {"shots_per_class": 5}},
        "trainer": {"max_epochs": 2},
    }


def test_a_dot_in_a_file_name_is_no_path_of_keys():
    overlay = nested({"data": {"init_args": {"data_files": {"train.csv": "a"}}}}, "set")
    assert overlay["data"]["init_args"]["data_files"] == {"train.csv": "a"}


def test_an_overlay_replaces_values_and_keeps_what_it_does_not_name():
    assert merged({"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}}) == {"a": {"b": 1, "c": [2]}}
    assert put({"model": {"init_args": {"lr": 1, "x": 2}}}, "model.lr", 3) == {
        "model": {"init_args": {"lr": 3, "x": 2}}
    }


def test_columns_are_named_as_short_as_they_can_be_told_apart():
    keys = ["model.init_args.lr", "data.init_args.seed", "retention.init_args.seed"]
    assert [short(k, keys) for k in keys] == ["lr", "data.init_args.seed", "retention.init_args.seed"]


def test_seeds_axes_and_settings_make_the_product():
    found = study(
        arms={"plain": {"tune": {"model.lr": [0.1, 0.2], "model.warmup": [0.0, 0.1]}}},
        axes={
            "data.shots_per_class": [5, 20],
            "net": {"small": {"network.hidden": [8]}, "large": {"network.hidden": [64]}},
        },
        seeds=3,
    )
    assert found.seeds == [0, 1, 2]
    assert len(found.arms[0].settings) == 4
    assert found.cells == [{"shots_per_class": s, "net": n} for s in (5, 20) for n in ("small", "large")]


def searched(about, **options):
    """Arms of which one searches a range of model.lr."""
    return {"a": {"search": {"ranges": {"model.lr": about}, **options}}}


@pytest.mark.parametrize(
    ("content", "key", "values"),
    [
        ({"arm": {}}, "arm", ["'arms'"]),
        ({"arms": {}}, "arms", []),
        ({"arms": {"a b": {}}}, "arms", ["'a b'"]),
        ({"arms": {"plain": {"tunes": {}}}}, "arms.plain.tunes", ["'tune'"]),
        ({"arms": {"plain": {"tune": {"model.lr": []}}}}, "arms.plain.tune.model.lr", ["[]"]),
        ({"arms": {"plain": {"tune": {"model.lr": [1, 1]}}}}, "arms.plain.tune.model.lr", ["[1, 1]"]),
        ({"arms": {"plain": {"set": [1]}}}, "arms.plain.set", ["[1]"]),
        ({"axes": {"data.shots_per_class": 5}}, "axes.data.shots_per_class", ["5"]),
        ({"axes": {"data.shots_per_class": [5, 5]}}, "axes.data.shots_per_class", ["5"]),
        ({"seeds": 0}, "seeds", ["0"]),
        ({"seeds": [1, 1]}, "seeds", ["[1, 1]"]),
        ({"seeds": True}, "seeds", ["True"]),
        ({"seeds": 3, "tune_seeds": 4}, "tune_seeds", ["1 to 3", "4"]),
        ({"folds": 1}, "folds", ["2", "1"]),
        ({"baseline": "none"}, "baseline", ["'none'", "plain"]),
        ({"select": {"rule": "test"}}, "select.rule", ["'test'", "keep", "best"]),
        ({"select": {"within": -1}}, "select.within", ["0", "-1"]),
        ({"select": {"target": "test/accuracy"}}, "select.target", ["'test/accuracy'", "val/accuracy"]),
        ({"select": {"kept": "test/retention/accuracy"}}, "select.kept", ["'test/retention/accuracy'", "val/accuracy"]),
        ({"vary": ["data.subset_seed"]}, "vary", ["seed_everything", "data.subset_seed"]),
        ({"base": "nowhere.yaml"}, "base", ["nowhere.yaml"]),
        ({"base": None}, "base", ["None"]),
        ({"report": "test/accuracy"}, "report", ["'test/accuracy'"]),
        ({"study": "../up"}, "study", ["'../up'"]),
        ({"arms": searched({"low": 1, "high": 0})}, "arms.a.search.ranges.model.lr", ["{'low': 1, 'high': 0}"]),
        ({"arms": searched({"low": 0, "high": 1, "log": True})}, "arms.a.search.ranges.model.lr", ["'log': True"]),
        ({"arms": searched([1], trials=None)}, "arms.a.search.trials", ["None"]),
        ({"arms": searched([1], sampler=["x"])}, "arms.a.search.sampler", ["['x']"]),
        ({"arms": searched({"low": 0, "high": float("inf")})}, "arms.a.search.ranges.model.lr", ["inf"]),
        ({"arms": searched({"low": 0, "high": 1, "step": -1})}, "arms.a.search.ranges.model.lr", ["'step': -1"]),
        ({"arms": {"a": {**searched([1])["a"], "tune": {"model.lr": [1]}}}}, "arms.a", ["tune", "search"]),
        ({"arms": searched([1], trials=0)}, "arms.a.search.trials", ["1", "0"]),
    ],
)
def test_what_is_wrong_is_said_with_its_key(content, key, values):
    with refused(key, *values):
        study(**content)


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("arms: [")
    with refused("--config", "s.yaml, line 1"):
        read_study(file)
    file.write_text("arms: {plain: {}}\n")
    with refused("--config", "s.yaml: base: "):
        read_study(file)


# ---- the rule ----

UP = Metrics(MetricInfo("val/accuracy", "max"), MetricInfo("retention/accuracy", "max"))


def candidates(*values, wanted=3):
    return [Candidate({"model.init_args.alpha": i}, t, k, n, wanted) for i, (t, k, n) in enumerate(values)]


def chosen(found, select=None, metrics=UP):
    best, reach, _ = choose(found, select or Select(), metrics)
    return best.setting["model.init_args.alpha"], reach


def test_keep_takes_what_keeps_most_within_reach_of_the_best_target():
    found = candidates((0.90, 0.5, 3), (0.895, 0.9, 3), (0.88, 1.0, 3))
    assert chosen(found) == (1, [True, True, False])


def test_the_reach_is_closed_and_blind_to_the_last_bits_of_means():
    assert chosen(candidates((0.9, 0.5, 3), (0.9 - 0.01, 0.9, 3)))[0] == 1
    assert chosen(candidates((0.3, 0.5, 3), (0.3 - 0.1, 0.9, 3)), Select(within=0.1))[0] == 1


def test_best_looks_at_the_target_alone():
    assert chosen(candidates((0.90, 0.5, 3), (0.895, 0.9, 3)), Select(rule="best")) == (0, [True, False])


def test_metrics_of_which_less_is_better_are_turned_around():
    metrics = Metrics(MetricInfo("val/loss", "min"), MetricInfo("drift/kl", "min"))
    found = candidates((1.0, 3.0, 3), (1.005, 0.1, 3), (1.5, 0.0, 3))
    assert chosen(found, metrics=metrics) == (1, [True, True, False])


def test_a_setting_of_which_points_failed_is_passed_over():
    assert chosen(candidates((0.99, 1.0, 2), (0.9, 0.5, 3)))[0] == 1


def test_where_all_settings_have_failed_points_the_best_of_what_there_is_is_taken():
    assert chosen(candidates((0.99, 1.0, 2), (0.9, 0.5, 2)))[0] == 0


def test_among_equally_kept_ones_the_better_target_wins_then_the_first_listed():
    assert chosen(candidates((0.895, 0.9, 3), (0.9, 0.9, 3), (0.9, 0.9, 3)))[0] == 1


def test_without_anything_kept_the_best_target_is_taken():
    metrics = Metrics(MetricInfo("val/accuracy", "max"), None)
    assert chosen(candidates((0.90, None, 3), (0.895, None, 3)), metrics=metrics)[0] == 0


def test_values_that_are_no_numbers_leave_a_mean_out_and_are_never_averaged() -> None:
    nan = float("nan")
    with_nan = candidate({}, [(0.5, nan), (0.7, 0.4)], 2, [1.0, nan])
    without = candidate({}, [(0.5, None), (0.7, 0.4)], 2, [1.0, None])
    assert with_nan is not None and with_nan == without
    assert (with_nan.target, with_nan.kept, with_nan.loss) == (pytest.approx(0.6), None, None)
    whole = candidate({}, [(0.5, 0.2), (0.7, 0.4)], 2, [1.0, 2.0])
    assert whole is not None and (whole.kept, whole.loss) == (pytest.approx(0.3), pytest.approx(1.5))
