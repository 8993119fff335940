"""An ablation's statistics against scipy, statsmodels and hand-made references, at the edges, and under symmetries."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.stats.cells import (
    cell_statistics,
    compare_with_baseline,
    correct,
    equivalence,
    methods,
    seeds_needed,
    summarise,
)
from tests.refused import refused

PLAIN = [0.91, 0.88, 0.93, 0.90, 0.89, 0.92, 0.87, 0.90]
L2SP = [0.92, 0.90, 0.93, 0.92, 0.90, 0.94, 0.88, 0.93]
DISTILL = [0.90, 0.89, 0.92, 0.91, 0.88, 0.91, 0.88, 0.92]
PROBE = [0.80, 0.83, 0.79, 0.84, 0.80, 0.78, 0.81, 0.82]
STUDY = {"plain": PLAIN, "l2sp": L2SP, "distill": DISTILL, "probe": PROBE}


def by_seed(study):
    return {arm: dict(enumerate(values)) for arm, values in study.items()}


def by_arm(differences):
    return {d.arm: d for d in differences}


# ---- against the libraries


def test_a_summary_is_numpys_and_scipys():
    s = summarise(L2SP)
    assert (s.n, s.missing, s.mean, s.std) == (8, 0, pytest.approx(np.mean(L2SP)), pytest.approx(np.std(L2SP, ddof=1)))
    assert (s.low, s.high) == pytest.approx(stats.t.interval(0.95, 7, np.mean(L2SP), stats.sem(L2SP)))
    bca = stats.bootstrap((sorted(L2SP),), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(0))
    assert (s.bootstrap_low, s.bootstrap_high) == pytest.approx(tuple(bca.confidence_interval))
    assert s == summarise(L2SP), "a summary must not change from call to call"


def test_differences_are_scipys_paired_t_tests_corrected_as_statsmodels_does():
    found = by_arm(compare_with_baseline(by_seed(STUDY), "plain"))
    arms = list(found)
    reference = [stats.ttest_rel(STUDY[a], PLAIN) for a in arms]
    assert arms == ["l2sp", "distill", "probe"]
    assert [found[a].p for a in arms] == pytest.approx([r.pvalue for r in reference])
    corrected = multipletests([r.pvalue for r in reference], method="holm")[1]
    assert [found[a].p_corrected for a in arms] == pytest.approx(list(corrected))
    for a, r in zip(arms, reference, strict=True):
        x = np.subtract(STUDY[a], PLAIN)
        assert (found[a].low, found[a].high) == pytest.approx(tuple(r.confidence_interval(0.95)))
        assert found[a].effect_size == pytest.approx(x.mean() / x.std(ddof=1))
    assert [found[a].verdict for a in arms] == ["better", "no difference shown", "worse"]


def test_the_sign_flip_p_is_the_share_of_all_sign_patterns():
    x = np.subtract(DISTILL, PLAIN)
    signs = 1 - 2 * ((np.arange(2**8)[:, None] >> np.arange(8)) & 1)
    share = np.mean(np.abs(signs @ x) >= abs(x.sum()) - 1e-12)
    d = by_arm(compare_with_baseline(by_seed(STUDY), "plain"))["distill"]
    assert d.p_sign_flip == pytest.approx(share)
    assert d.p_sign_flip_smallest == 2 / 2**8


def test_two_one_sided_tests_are_statsmodels():
    found = equivalence(by_seed(STUDY), "plain", 0.02)
    for e in found:
        p, worse, better = DescrStatsW(np.subtract(STUDY[e.arm], PLAIN)).ttost_mean(-0.02, 0.02)
        assert (e.p_not_worse, e.p_not_better, e.p) == pytest.approx((worse[1], better[1], p)), e.arm
    assert {e.arm: e.verdict for e in found} == {"l2sp": "as good", "distill": "equivalent", "probe": "not shown"}


@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
@pytest.mark.parametrize("seed", range(2))
def test_corrections_are_statsmodels(correction, seed):
    p = np.random.default_rng(seed).beta(0.5, 2, size=7).round(3)
    expected = multipletests(p, method=correction)[1]
    assert correct(list(p), correction) == pytest.approx(list(expected))
    assert correct([None, *p, None], correction)[1:-1] == pytest.approx(list(expected))


def test_shaffers_correction_multiplies_by_the_hypotheses_that_may_still_be_true():
    # four tests of which two can be true at once: by hand, times 2, 2, 2, 1, and never falling
    assert correct([0.01, 0.03, 0.02, 0.05], "holm", at_most=2) == pytest.approx([0.02, 0.06, 0.04, 0.06])


@pytest.mark.parametrize("effect", [0.05, 0.3, 0.8, 1.5, 2.0])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_seeds_needed_is_statsmodels_power_rounded_up(effect, alpha):
    expected = math.ceil(TTestPower().solve_power(effect, alpha=alpha, power=0.8))
    assert seeds_needed(effect, alpha) == seeds_needed(-effect, alpha) == max(expected, 3)


def test_a_difference_that_does_not_show_says_how_many_seeds_it_takes_at_the_corrected_level():
    d = by_arm(compare_with_baseline(by_seed(STUDY), "plain"))["distill"]
    assert d.seeds_needed == math.ceil(TTestPower().solve_power(abs(d.effect_size), alpha=0.05 / 3, power=0.8))
    assert d.seeds_needed > d.n


def test_an_effect_no_sane_study_could_show_has_no_number_of_seeds():
    assert seeds_needed(0.001, 0.05) is None
    assert seeds_needed(0.0, 0.05) is None


# ---- at the edges


def test_one_value_has_no_interval_and_says_so():
    s = summarise([0.9])
    assert (s.n, s.mean, s.std, s.low, s.high, s.bootstrap_low) == (1, 0.9, None, None, None, None)
    assert s.method == "no interval: one value has no spread"


def test_equal_values_have_no_interval_for_their_agreeing_proves_nothing():
    s = summarise([0.9, 0.9, float(np.float32(0.9))])
    assert (s.std, s.low, s.high) == (0.0, None, None)
    assert s.method == "no interval: all 3 values are equal"


def test_no_known_value_is_no_error():
    s = summarise([None, math.nan, math.inf])
    assert (s.n, s.missing, s.mean, s.low) == (0, 3, None, None)


def test_an_interval_is_cut_where_the_metric_ends():
    assert summarise([0.99, 0.90, 1.0], bounds=(0, 1)).high == 1.0
    assert summarise([0.99, 0.90, 1.0]).high > 1.0


def test_a_pair_with_a_missing_half_is_dropped_and_counted():
    study = by_seed(STUDY)
    study["l2sp"][0] = None
    study["l2sp"][1] = math.nan
    del study["plain"][2]
    study["l2sp"][99] = 0.5
    d = by_arm(compare_with_baseline(study, "plain"))["l2sp"]
    assert (d.n, d.dropped) == (5, 4)
    assert d.mean == pytest.approx(np.mean(np.subtract(L2SP, PLAIN)[3:]))


def test_two_pairs_are_not_tested():
    d = compare_with_baseline({"plain": {0: 0.1, 1: 0.2}, "l2sp": {0: 0.5, 1: 0.61}}, "plain")[0]
    assert (d.n, d.p, d.p_corrected, d.verdict, d.seeds_needed) == (2, None, None, "no difference shown", None)
    assert d.mean == pytest.approx(0.405)
    assert d.test == "none: fewer than 3 pairs"


@pytest.mark.parametrize(("n", "verdict", "needed"), [(3, "no difference shown", 6), (6, "better", None)])
def test_equal_differences_are_no_certainty_but_as_many_signs(n, verdict, needed):
    plain = {s: 0.1 * s for s in range(n)}
    d = compare_with_baseline({"plain": plain, "l2sp": {s: v + 0.05 for s, v in plain.items()}}, "plain")[0]
    assert (d.std, d.p, d.effect_size, d.low) == (0.0, 2 / 2**n, None, None)
    assert (d.verdict, d.seeds_needed) == (verdict, needed)
    assert d.note == f"all {n} differences are equal: the t-test has nothing to go by"


def test_no_difference_at_all_is_p_1_and_no_number_of_seeds_would_show_it():
    study = by_seed({"plain": PLAIN, "twin": PLAIN})
    d = compare_with_baseline(study, "plain")[0]
    assert (d.mean, d.p, d.verdict, d.seeds_needed) == (0.0, 1.0, "no difference shown", None)


def test_with_three_seeds_it_is_said_that_all_rests_on_the_normal_distribution():
    study = {arm: dict(list(v.items())[:3]) for arm, v in by_seed(STUDY).items()}
    d = by_arm(compare_with_baseline(study, "plain"))["probe"]
    assert d.p_sign_flip_smallest == 0.25
    assert "cannot go below p = 0.25" in d.note


def test_an_arm_that_was_not_tested_does_not_count_in_the_correction():
    study = by_seed(STUDY)
    alone = by_arm(compare_with_baseline({k: study[k] for k in ("plain", "l2sp")}, "plain"))
    beside = by_arm(compare_with_baseline({"plain": study["plain"], "l2sp": study["l2sp"], "late": {0: 0.1}}, "plain"))
    assert alone["l2sp"] == beside["l2sp"]
    assert alone["l2sp"].p == alone["l2sp"].p_corrected


@pytest.mark.parametrize(
    ("key", "wrong", "values"),
    [
        ("baseline", "plane", ["'plane'", "'plain'"]),
        ("correction", "holmes", ["'holmes'", "'holm'"]),
        ("better", "less", ["'less'", "max", "min"]),
    ],
)
def test_a_wrong_word_is_named(key, wrong, values):
    with refused(key, *values):
        compare_with_baseline(by_seed(STUDY), **{"baseline": "plain", key: wrong})


def test_a_margin_must_be_above_zero():
    with refused("within", "0.0"):
        equivalence(by_seed(STUDY), "plain", 0.0)


# ---- symmetries

noise = st.lists(st.floats(-0.2, 0.2).map(lambda x: round(x, 4)), min_size=6, max_size=6)
studies = st.fixed_dictionaries({"plain": noise, "l2sp": noise, "distill": noise}).map(by_seed)


def same(left, right):
    """Whether two lists of differences agree, to rounding."""
    for d, e in zip(left, right, strict=True):
        a, b = vars(d), vars(e)
        assert {k: v for k, v in a.items() if not isinstance(v, float)} == {
            k: v for k, v in b.items() if not isinstance(v, float)
        }
        assert {k: v for k, v in a.items() if isinstance(v, float)} == pytest.approx(
            {k: v for k, v in b.items() if isinstance(v, float)}, rel=1e-5, abs=1e-9
        )
    return True


@settings(max_examples=25, deadline=None)
@given(studies, st.randoms(use_true_random=False))
def test_the_order_of_seeds_and_arms_does_not_matter(study, random):
    arms = list(study)
    random.shuffle(arms)
    shuffled = {}
    for arm in arms:
        seeds = list(study[arm])
        random.shuffle(seeds)
        shuffled[arm] = {s: study[arm][s] for s in seeds}
    before, after = (by_arm(compare_with_baseline(x, "plain")) for x in (study, shuffled))
    assert before == after


@settings(max_examples=25, deadline=None)
@given(studies)
def test_less_is_better_mirrors_more_is_better(study):
    mirrored = {arm: {s: -v for s, v in values.items()} for arm, values in study.items()}
    more = compare_with_baseline(study, "plain", better="max")
    less = compare_with_baseline(mirrored, "plain", better="min")
    for d, e in zip(more, less, strict=True):
        assert (d.p, d.p_corrected, d.verdict, d.seeds_needed) == (
            pytest.approx(e.p), pytest.approx(e.p_corrected), e.verdict, e.seeds_needed)  # fmt: skip
        assert d.mean == pytest.approx(-e.mean)
    as_good, mirror = equivalence(study, "plain", 0.05), equivalence(mirrored, "plain", 0.05, better="min")
    assert [e.verdict for e in as_good] == [e.verdict for e in mirror]


@settings(max_examples=25, deadline=None)
@given(studies, st.lists(st.sampled_from([-0.5, 0.0, 0.25, 1.0]), min_size=6, max_size=6))
def test_what_a_seed_does_to_all_arms_alike_changes_nothing(study, shift):
    moved = {arm: {s: v + shift[s] for s, v in values.items()} for arm, values in study.items()}
    assert same(compare_with_baseline(study, "plain"), compare_with_baseline(moved, "plain"))


@settings(max_examples=50, deadline=None)
@given(studies)
def test_the_corrected_interval_leaves_out_zero_exactly_where_the_verdict_does(study):
    for d in compare_with_baseline(study, "plain"):
        if d.low_corrected is not None:
            assert (d.low_corrected > 0 or d.high_corrected < 0) == (d.verdict != "no difference shown"), d
            assert d.low_corrected <= d.low + 1e-12 and d.high_corrected >= d.high - 1e-12


# ---- a cell


def cell(target, kept, **changes):
    given = {
        "baseline": "plain",
        "metrics": {
            k: MetricInfo(n, "max", "share")
            for k, n in (("target", "test/accuracy"), ("kept", "test/retention/accuracy"))
        },
        "within": 0.01,
        "at": {"shots_per_class": 5},
    }
    return cell_statistics(by_seed(target), kept and by_seed(kept), **{**given, **changes})


def test_a_cell_is_plain_json_with_the_documented_keys():
    found = cell(STUDY, {**STUDY, "l2sp": [None] * 8})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    documented = [k for k in cell_statistics.__doc__.split("Args:")[0].split("`")[1::2] if k in found]
    assert set(documented) == set(found), "the docstring must name every key"
    assert found["summaries"]["kept"]["l2sp"]["n"] == 0
    assert [d["arm"] for d in found["differences"]["target"]] == ["l2sp", "distill", "probe"]


def test_a_cell_corrects_over_both_columns_and_the_tests_of_as_well():
    found = cell(STUDY, STUDY)
    assert (found["tests"], found["at_most_true"]) == (12, 6)
    p = [d["p"] for side in ("target", "kept") for d in found["differences"][side]]
    p += [e["p_not_worse"] for e in found["equivalence"]] + [e["p_not_better"] for e in found["equivalence"]]
    expected = correct(p, "holm", at_most=6)
    assert [d["p_corrected"] for side in ("target", "kept") for d in found["differences"][side]] == expected[:6]
    assert [e["p_not_worse_corrected"] for e in found["equivalence"]] == expected[6:9]
    alone = cell(STUDY, None, within=None)
    assert (alone["tests"], alone["differences"]["kept"], alone["equivalence"]) == (3, None, None)


def test_a_cell_says_by_which_methods_and_what_its_tests_are_not_about():
    said = " ".join(cell(STUDY, STUDY)["methods"])
    for word in ("Student's t", "BCa", "paired t-test", "sign-flip", "Shaffer", "TOST", "80 % power"):
        assert word in said, word
    assert "over seeds on the test split there is, not about the choice of its samples" in said


def test_the_statistics_load_without_torch_or_lightning():
    code = "import sys, sft_lightning.stats.cells; print([m for m in ('torch', 'lightning') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(("level", "said"), [(0.95, "is at most 5 %."), (0.9, "is at most 10 %.")])
def test_the_page_says_the_chance_of_a_false_claim_at_the_level_used(level: float, said: str) -> None:
    assert any(said in sentence for sentence in methods(level, 4, 4, None, True))
