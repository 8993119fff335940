"""A cell's answer in one sentence: what it says in each case, and that it claims no more than the tests show."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.stats.cells import cell_statistics

TARGET, KEPT = MetricInfo("test/accuracy", "max", "share"), MetricInfo("test/retention/accuracy", "max", "share")
ACCURACIES = {"target": TARGET, "kept": KEPT}


def study(gains, seeds=10, noise=0.005, base=0.8, seed=0):
    """Arms around `base` plus their gain: a seed moves all arms alike, and noise each by itself, with mean exactly 0."""
    rng = np.random.default_rng(seed)
    common = rng.normal(0, 0.02, seeds)
    found = {}
    for arm, gain in gains.items():
        own = rng.normal(0, noise, seeds)
        own -= own.mean()
        found[arm] = {s: float(base + gain + common[s] + own[s]) for s in range(seeds)}
    return found


def answer(target, kept, within=0.01, at=None, settings=None, metrics=ACCURACIES):
    at = {"shots_per_class": 5} if at is None else at
    return cell_statistics(target, kept, "plain", metrics, within, at, settings)["answer"]


def test_an_arm_that_keeps_more_and_learns_as_well():
    said = answer(
        study({"plain": 0, "distill": -0.001}, noise=0.003),
        study({"plain": -0.1, "distill": -0.05}),
        settings={"distill": {"anchor_weight": 0.1}},
    )
    assert said.startswith(
        "With shots_per_class 5, distill (anchor_weight 0.1) keeps more than plain (test/retention/accuracy +5.0 points ["
    )
    assert "] , " not in said and ", p < 0.001) and learns as well to within 1 point (test/accuracy −0.1" in said
    assert "one-sided p" in said and said.endswith(", over 10 seeds.")


def with_references(target, kept, references, keeping=None):
    return cell_statistics(target, kept, "plain", ACCURACIES, 0.01, {}, references=references, keeping=keeping)


def test_only_arms_whose_loss_is_shown_to_lie_within_the_margin_compete_for_keeping_most():
    """The arm that lost most, and kept most, used to win where too few seeds showed its loss."""
    target = study({"plain": 0, "lossy": -0.05, "distill": 0.0}, noise=0.002)
    lossy = np.random.default_rng(3).normal(0, 0.07, 10)
    target["lossy"] = {s: 0.75 + float(lossy[s] - lossy.mean()) for s in range(10)}
    kept = study({"plain": -0.3, "lossy": 0.0, "distill": -0.1})
    found = with_references(target, kept, ())
    assert next(d for d in found["differences"]["target"] if d["arm"] == "lossy")["verdict"] == "no difference shown"
    assert found["answer"].startswith("In this study, distill keeps more than plain (")
    assert "and learns as well to within 1 point" in found["answer"] and "lossy" not in found["answer"]


def test_where_no_arm_is_shown_within_the_margin_it_says_so_and_what_would_settle_it():
    target = study({"plain": 0, "distill": 0.0, "far": -0.03}, noise=0.02)
    found = with_references(target, study({"plain": -0.1, "distill": -0.05, "far": -0.04}), ())
    said = found["answer"]
    assert said.startswith(
        "In this study, no arm that keeps more than plain is shown to stay within 1 point of its test/accuracy, over 10 seeds: "
    )
    seeds = {e["arm"]: e["seeds_needed"] for e in found["equivalence"]}
    assert seeds["far"] is None, "a loss that was seen beyond the margin is not settled by more seeds"
    assert seeds["distill"] > 10 and f"about {seeds['distill']} seeds would settle it for distill" in said


def test_seeds_that_would_settle_it_do_in_eight_of_ten_simulated_studies():
    from sft_lightning.stats.cells import compare_with_baseline
    from sft_lightning.stats.equivalence import equivalence, raw_equivalence, settle

    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, 10)
    x = (x - x.mean()) / x.std(ddof=1) * 0.02 - 0.002
    few = {"plain": dict.fromkeys(range(10), 0.5), "arm": {s: 0.5 + float(v) for s, v in enumerate(x)}}
    raw = raw_equivalence(few, "plain", 0.01, "max")
    (found,) = settle(raw, compare_with_baseline(few, "plain"), "max", 0.95)
    shown = 0
    for _ in range(400):
        values = {"plain": dict.fromkeys(range(found.seeds_needed), 0.5)}
        values["arm"] = {s: float(0.5 + v) for s, v in enumerate(rng.normal(-0.002, 0.02, found.seeds_needed))}
        p = raw_equivalence(values, "plain", 0.01, "max")[0].p_not_worse
        shown += p <= 0.05
    assert 0.74 < shown / 400 < 0.86, f"{found.seeds_needed} seeds show it in {shown} of 400 studies"
    assert equivalence(few, "plain", 0.01)[0].verdict == "not shown"


def test_a_probe_is_a_reference_line_and_never_wins():
    target = study({"plain": 0, "probe": 0.0, "distill": 0.0}, noise=0.002)
    kept = study({"plain": -0.3, "probe": 0.0, "distill": -0.1})
    found = with_references(target, kept, ("probe",))
    assert found["references"] == ["probe"]
    assert found["answer"].startswith("In this study, distill keeps more than plain (")
    assert (
        "; for reference, probe keeps all by construction, and no difference in learning is shown (" in found["answer"]
    )
    alone = with_references({a: target[a] for a in ("plain", "probe")}, None, ("probe",))
    assert alone["answer"].startswith("In this study, there is nothing to compare plain with; for reference, probe")


def test_a_reference_that_trains_the_encoder_is_not_said_to_keep_all():
    target = study({"plain": 0, "ceiling": 0.1, "distill": 0.0}, noise=0.002)
    kept = study({"plain": -0.3, "ceiling": -0.2, "distill": -0.1})
    said = with_references(target, kept, ("ceiling",), ())["answer"]
    assert "by construction" not in said, said
    assert "; for reference, ceiling keeps more than plain (" in said and said.startswith("In this study, distill"), (
        said
    )
    assert "and learns more (test/accuracy +10.00 points" in said.split("for reference")[1], said


GAINS = {"more": 0.1, "less": -0.1, "no difference": 0.0}


@pytest.mark.parametrize("learns", GAINS)
@pytest.mark.parametrize("keeps", [*GAINS, None])
@pytest.mark.parametrize("seeds", [10, 1])
def test_a_reference_is_said_as_it_is_whatever_the_tests_show(learns, keeps, seeds):
    target = study({"plain": 0, "ceiling": GAINS[learns], "distill": 0.0}, seeds)
    kept = (
        None
        if keeps is None
        else study({"plain": -0.2, "ceiling": -0.2 + GAINS[keeps], "distill": -0.2}, seeds, seed=1)
    )
    said = with_references(target, kept, ("ceiling",), ())["answer"].partition("; for reference, ceiling ")[2]
    for verb, how in (("learn", learns), ("keep", keeps)):
        wanted = f"{verb}s {how}" if how in ("more", "less") else f"shows no difference in {verb}ing"
        wanted = f"too few seeds for a test of {verb}ing" if seeds == 1 else wanted
        assert (wanted in said) == (how is not None), said
    assert said.count("plain") <= 1, said


def test_without_a_shown_equality_it_says_that_no_difference_in_learning_is_shown():
    said = answer(study({"plain": 0, "distill": -0.01}, noise=0.03), study({"plain": -0.1, "distill": -0.05}))
    assert (
        "keeps more than plain" in said and "with no difference in learning shown (test/accuracy −1.0 points [" in said
    )
    assert "as well" not in said


def test_an_arm_that_is_better_in_both():
    said = answer(study({"plain": 0, "distill": 0.04}), study({"plain": -0.1, "distill": -0.05}))
    assert "distill keeps more than plain (" in said and "and learns more (test/accuracy +4.0 points" in said


def test_a_trade_off_gives_both_numbers():
    said = answer(study({"plain": 0, "distill": -0.06}), study({"plain": -0.1, "distill": -0.05}))
    assert "keeps more than plain (test/retention/accuracy +5.0 points" in said
    assert "but learns less (test/accuracy −6.0 points" in said


def test_a_shown_loss_within_the_margin_is_said_to_be_one_and_small():
    said = answer(study({"plain": 0, "distill": -0.005}, noise=0.001), study({"plain": -0.1, "distill": -0.05}))
    assert "but learns less, by under 1 point, (test/accuracy −0.5" in said


def test_a_gain_without_a_loss_goes_before_a_larger_gain_at_a_loss():
    said = answer(
        study({"plain": 0, "frozen": -0.2, "l2sp": 0.0}),
        study({"plain": -0.3, "frozen": 0.0, "l2sp": -0.25}),
        within=None,
    )
    assert said.startswith("With shots_per_class 5, l2sp keeps more")


def test_arms_that_do_as_well_in_kind_are_named_and_not_ranked():
    said = answer(
        study({"plain": 0, "distill": 0.0, "l2sp": 0.0}), study({"plain": -0.1, "distill": -0.04, "l2sp": -0.05})
    )
    assert "; so does l2sp (arms were compared with plain, not with each other)" in said


def test_nothing_shown_says_how_many_seeds_it_would_take():
    said = answer(study({"plain": 0, "distill": 0.001}, noise=0.02), study({"plain": 0, "distill": 0.01}, noise=0.02))
    assert (
        "no difference shown between plain and distill in test/accuracy or test/retention/accuracy, over 10 seeds"
        in said
    )
    assert "the nearest to one is distill's test/retention/accuracy +1.0 points [" in said
    assert "to see one of this size about " in said and said.endswith(" seeds would be needed.")


def test_arms_that_only_lose_are_said_to_lose():
    said = answer(study({"plain": 0, "probe": -0.1, "l2sp": 0}, noise=0.02), study({"plain": 0, "probe": 0, "l2sp": 0}))
    assert "no arm is shown better than plain, over 10 seeds: probe learns less (test/accuracy −10.0 points" in said
    assert "no difference is shown for l2sp" in said


@pytest.mark.parametrize(
    ("seeds", "words"), [(1, "one seed: nothing can be said of the spread"), (2, "2 seeds: too few for a test")]
)
def test_fewer_than_three_seeds_are_shown_and_not_judged(seeds, words):
    rng = {"noise": 0.0, "seeds": seeds}
    said = answer(study({"plain": 0, "l2sp": -0.01}, **rng), study({"plain": 0, "l2sp": 0.1}, **rng))
    assert said == (
        f"With shots_per_class 5, {words}; seen against plain: l2sp test/accuracy −1.0 points and "
        "test/retention/accuracy +10.0 points."
    )


def test_three_seeds_with_a_large_difference_may_still_show_nothing():
    said = answer(
        {"plain": {0: 0.80, 1: 0.81, 2: 0.79}, "l2sp": {0: 0.80, 1: 0.82, 2: 0.79}},
        {"plain": {0: 0.50, 1: 0.60, 2: 0.70}, "l2sp": {0: 0.60, 1: 0.65, 2: 0.90}},
    )
    assert "no difference shown" in said and "over 3 seeds" in said


def test_what_was_kept_may_not_have_been_measured():
    for kept in (None, {"plain": {0: None}, "distill": {0: math.nan}}):
        said = answer(study({"plain": 0, "distill": 0.04}), kept)
        assert "distill learns more than plain (test/accuracy +4.0 points" in said
        assert said.endswith("over 10 seeds; what was kept was not measured.")


def test_an_arm_whose_kept_column_is_empty_is_not_said_to_keep():
    kept = study({"plain": 0, "l2sp": 0.0})
    said = answer(study({"plain": 0, "other-net": 0.05, "l2sp": 0}, noise=0.003), kept)
    assert "other-net learns more than plain" in said and said.endswith("; what was kept was not measured.")


def test_losses_are_said_in_their_own_unit_and_less_is_better():
    said = answer(
        study({"plain": 0, "distill": 0}, noise=0.02),
        study({"plain": 1.0, "distill": 0.6}),
        metrics={"target": TARGET, "kept": MetricInfo("test/retention/loss", "min", "nats")},
    )
    assert "keeps more than plain (test/retention/loss −0.400 [" in said and "] (less is better), p < 0.001)" in said


def test_an_accuracy_in_percent_is_not_multiplied_again():
    percent = {arm: {s: 100 * v for s, v in x.items()} for arm, x in study({"plain": 0, "distill": 0.04}).items()}
    said = answer(percent, None, within=1.0)
    assert "points" not in said and "learns more than plain (test/accuracy +4.0" in said


def test_seeds_that_lack_a_partner_are_mentioned():
    target = study({"plain": 0, "distill": 0.04})
    target["plain"][3] = math.nan
    assert "over 9 seeds (1 left out as a value is missing)" in answer(target, None)


def test_an_arm_with_too_few_seeds_is_not_said_to_show_no_difference():
    target = study({"plain": 0, "l2sp": 0}) | {"late": {0: 0.9}}
    said = answer(target, None)
    assert "between plain and l2sp in test/accuracy" in said and said.endswith("; late has too few seeds for a test.")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"plain": {0: 0.9}}, "there is nothing to compare plain with"),
        ({"plain": {}, "l2sp": {0: 0.9}}, "no arm has a value of the same seed as plain: nothing can be compared"),
        ({"l2sp": {0: 0.9}}, "no arm has a value of the same seed as plain: nothing can be compared"),
    ],
)
def test_an_empty_cell_says_so(target, words):
    assert answer(target, None, at={}) == f"In this study, {words}."


def test_equal_results_are_said_to_be_equal():
    target = study({"plain": 0})
    said = answer(target | {"twin": dict(target["plain"])}, None, within=None)
    assert said.endswith("in test/accuracy, over 10 seeds: the means are the same.")


some = st.dictionaries(st.integers(0, 4), st.sampled_from([None, math.nan, 0.5, 0.6, 0.9, 1.0]), max_size=5)
some_studies = st.dictionaries(st.sampled_from(["plain", "l2sp", "distill"]), some)


@settings(max_examples=150, deadline=None)
@given(some_studies, st.none() | some_studies, st.sampled_from([None, 0.01, 0.5]), st.sampled_from(["max", "min"]))
def test_whatever_is_missing_there_is_one_sentence(target, kept, within, better):
    metrics = {"target": TARGET, "kept": replace(KEPT, better=better)}
    found = cell_statistics(target, kept, "plain", metrics, within, {"shots": 5})
    json.dumps(found, allow_nan=False)
    said = found["answer"]
    assert said.startswith("With shots 5, ") and said.endswith(".") and "None" not in said and "nan" not in said
    verdicts = {d["verdict"] for side in found["differences"].values() for d in side or ()}
    if not verdicts - {"no difference shown"}:
        claims = [w for w in ("keeps more", "keeps less", "learns more", "learns less") if w in said]
        assert not claims, f"claims {claims}, which no test shows: {said}"
