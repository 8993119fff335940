"""A study file says what it means, and what is wrong with it."""

from pathlib import Path

import pytest

from sft_lightning.ablation.selection import Candidate, Metrics, choose
from sft_lightning.ablation.study import Select, make_study, read_study
from sft_lightning.config.overrides import merged, nested, put, short
from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import MetricInfo

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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"arm": {}}, "arm: no key of a study file; did you mean 'arms'?"),
        ({"arms": {}}, "arms: name at least one"),
        ({"arms": {"a b": {}}}, "arms: 'a b' is no name"),
        ({"arms": {"plain": {"tunes": {}}}}, "tunes: no key of arms.plain; did you mean 'tune'?"),
        (
            {"arms": {"plain": {"tune": {"model.lr": []}}}},
            "arms.plain.tune.model.lr: must be a list of different values",
        ),
        ({"arms": {"plain": {"tune": {"model.lr": [1, 1]}}}}, "must be a list of different values"),
        ({"arms": {"plain": {"set": [1]}}}, "arms.plain.set: must be keys and values"),
        ({"axes": {"data.shots_per_class": 5}}, "axes.data.shots_per_class: must be a list of values"),
        ({"axes": {"data.shots_per_class": [5, 5]}}, "names a value twice"),
        ({"seeds": 0}, "seeds: must be a number of seeds"),
        ({"seeds": [1, 1]}, "seeds: must be a number of seeds"),
        ({"seeds": True}, "seeds: must be a number of seeds"),
        ({"seeds": 3, "tune_seeds": 4}, "tune_seeds: must be a whole number from 1 to 3"),
        ({"folds": 1}, "folds: must be a whole number from 2"),
        ({"baseline": "none"}, "baseline: no arm 'none'; there are plain"),
        ({"select": {"rule": "test"}}, "select.rule: 'test' is neither keep nor best"),
        ({"select": {"within": -1}}, "select.within: must be a number from 0"),
        ({"select": {"target": "test/accuracy"}}, "test decides nothing"),
        ({"select": {"kept": "test/retention/accuracy"}}, "test decides nothing"),
        ({"vary": ["data.subset_seed"]}, "vary: must be a list of keys, seed_everything among them"),
        ({"base": "nowhere.yaml"}, "nowhere.yaml does not exist (it is relative to the study file)"),
        ({"base": None}, "base: name the experiment"),
        ({"report": "test/accuracy"}, "report: must be a list of metrics"),
        ({"study": "../up"}, "study: '../up' must be"),
        ({"arms": {"a": {"search": {"ranges": {"model.lr": {"low": 1, "high": 0}}}}}}, "must be {low: …, high: …"),
        ({"arms": {"a": {"search": {"ranges": {"model.lr": {"low": 0, "high": 1, "log": True}}}}}}, "must be {low: …"),
        ({"arms": {"a": {"search": {"trials": None, "ranges": {"model.lr": [1]}}}}}, "trials: must be a whole number"),
        ({"arms": {"a": {"search": {"sampler": ["x"], "ranges": {"model.lr": [1]}}}}}, "sampler: must be a name"),
        ({"arms": {"a": {"search": {"ranges": {"model.lr": {"low": 0, "high": float("inf")}}}}}}, "must be {low: …"),
        ({"arms": {"a": {"search": {"ranges": {"model.lr": {"low": 0, "high": 1, "step": -1}}}}}}, "must be {low: …"),
        (
            {"arms": {"a": {"search": {"ranges": {"model.lr": [1]}}, "tune": {"model.lr": [1]}}}},
            "tune or search, not both",
        ),
        ({"arms": {"a": {"search": {"trials": 0, "ranges": {"model.lr": [1]}}}}}, "trials: must be a whole number"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(content, said):
    with pytest.raises(UserError) as error:
        study(**content)
    assert said in str(error.value)


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("arms: [")
    with pytest.raises(UserError, match=r"s\.yaml, line 1: not valid YAML"):
        read_study(file)
    file.write_text("arms: {plain: {}}\n")
    with pytest.raises(UserError, match=r"s\.yaml: base: name the experiment"):
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
