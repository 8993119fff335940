"""Simulated studies with a known truth: how often a claim is false, an effect seen, an interval right.

Tolerances are three standard errors of the simulated share, √(p (1 − p) / studies), beside the claim itself.
"""

import math

import numpy as np
import pytest
from scipy import stats

from sft_lightning.stats.cells import Column, cell_tests, compare_with_baseline, correct, seeds_needed, summarise

ARMS, SEEDS, STUDIES = 5, 10, 2000
LEVEL = 0.05


def tolerance(share, studies):
    return 3 * math.sqrt(share * (1 - share) / studies)


def normal(rng, shape):
    """Values with mean 0 and spread 1."""
    return rng.normal(size=shape)


def accuracy(rng, shape):
    """Accuracies of 200 test samples near the ceiling, a seed moving all arms alike; mean 0.95 but for the arms' own."""
    seed = rng.beta(95, 5, size=(*shape[:-2], 1, shape[-1]))
    return rng.binomial(200, seed, size=shape) / 200


def skewed(rng, shape):
    """Log-normal values: now and then a seed goes far off."""
    return rng.lognormal(sigma=1.0, size=shape)


NOISES = [normal, accuracy, skewed]


def paired_p(values):
    """p [studies, arms] of paired t-tests of values [studies, 1 + arms, seeds] against the first arm."""
    with np.errstate(all="ignore"):
        p = stats.ttest_rel(values[:, 1:], values[:, :1], axis=-1).pvalue
    return np.where(np.isnan(p), 1.0, p)


def as_study(values):
    return {f"arm{i}": dict(enumerate(map(float, row))) for i, row in enumerate(values)}


@pytest.mark.parametrize("noise", NOISES)
def test_where_no_arm_differs_a_study_claims_a_difference_in_at_most_one_of_twenty(noise):
    values = noise(np.random.default_rng(1), (STUDIES, 1 + ARMS, SEEDS))
    claims = np.array([min(correct(list(p))) <= LEVEL for p in paired_p(values)])
    rate = claims.mean()
    assert rate <= LEVEL + tolerance(LEVEL, STUDIES), f"{rate:.3f} of {STUDIES} studies claimed what is not so"
    if noise is not skewed:  # where the test would be far too shy
        assert rate >= 0.02, f"only {rate:.3f} of {STUDIES} studies: the tests are far below their level"
    for i in range(15):  # the function that studies use claims what the reference claims
        found = compare_with_baseline(as_study(values[i]), "arm0")
        assert any(d.verdict != "no difference shown" for d in found) == claims[i]


def test_uncorrected_tests_would_claim_far_more():
    values = normal(np.random.default_rng(1), (STUDIES, 1 + ARMS, SEEDS))
    assert (paired_p(values).min(axis=1) <= LEVEL).mean() > 0.12, (
        "then this simulation could not tell a correction from none"
    )


@pytest.mark.parametrize("noise", NOISES)
def test_with_three_seeds_a_study_still_claims_at_most_one_of_twenty(noise):
    rng = np.random.default_rng(2)
    studies = 150
    values = noise(rng, (studies, 1 + ARMS, 3))
    found = [compare_with_baseline(as_study(v), "arm0") for v in values]
    rate = np.mean([any(d.verdict != "no difference shown" for d in f) for f in found])
    assert rate <= LEVEL + tolerance(LEVEL, studies), f"{rate:.3f} of {studies} studies claimed what is not so"


def test_a_cell_claims_something_false_in_at_most_one_of_twenty_over_both_columns_and_as_well():
    # the target of every arm lies exactly at the margin below plain, what it keeps is the same as plain's: then 'as well',
    # 'better' in the target and any difference in what is kept are false
    rng, margin, studies = np.random.default_rng(3), 1.0, 120
    columns = {k: Column(k, "max", share=False) for k in ("target", "kept")}
    false = 0
    for _ in range(studies):
        target, kept = rng.normal(size=(2, 1 + ARMS, 6))
        target[1:] -= margin
        sides = {"target": as_study(target), "kept": as_study(kept)}
        differences, as_well, *_ = cell_tests(sides, columns, "arm0", margin, 0.95)
        false += (
            any(d.verdict == "better" for d in differences["target"])
            or any(d.verdict != "no difference shown" for d in differences["kept"])
            or any(e.verdict != "not shown" for e in as_well)
        )
    assert false / studies <= LEVEL + tolerance(LEVEL, studies), f"{false} of {studies} cells claimed what is not so"


@pytest.mark.parametrize("effect", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_with_the_seeds_needed_the_difference_is_seen_in_four_of_five_studies(effect, alpha):
    n = seeds_needed(effect, alpha)
    x = np.random.default_rng(4).normal(effect, 1, size=(4000, n))
    seen = (stats.ttest_1samp(x, 0, axis=1).pvalue <= alpha).mean()
    short = (stats.ttest_1samp(x[:, :-1], 0, axis=1).pvalue <= alpha).mean()
    assert seen >= 0.8 - tolerance(0.8, 4000), f"{n} seeds saw it in {seen:.3f} of the studies"
    assert short <= 0.8 + tolerance(0.8, 4000), f"one seed fewer than {n} would do: {short:.3f}"


def test_a_study_with_a_true_effect_names_the_arm_that_has_it():
    n = seeds_needed(1.5, LEVEL / 3)
    rng, studies = np.random.default_rng(5), 100
    seen = 0
    for _ in range(studies):
        values = rng.normal(scale=1 / math.sqrt(2), size=(4, n))  # differences have spread 1
        values[2] += 1.5
        found = {d.arm: d.verdict for d in compare_with_baseline(as_study(values), "arm0")}
        seen += found["arm2"] == "better"
    assert seen / studies >= 0.8 - tolerance(0.8, studies), f"seen in {seen} of {studies} studies with {n} seeds"


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize(("noise", "mean"), [(normal, 0.0), (accuracy, 0.95)])
def test_the_shown_interval_holds_the_true_mean_as_often_as_it_says_and_the_bootstrap_does_not(noise, mean, n):
    rng, studies = np.random.default_rng(6), 300
    found = [summarise(v) for v in noise(rng, (studies, 1, n))[:, 0]]
    shown = np.mean([s.low is not None and s.low <= mean <= s.high for s in found])
    boot = np.mean([s.bootstrap_low is not None and s.bootstrap_low <= mean <= s.bootstrap_high for s in found])
    assert abs(shown - 0.95) <= tolerance(0.95, studies) + 0.015, f"t: {shown:.3f}"
    assert boot < shown, f"bootstrap {boot:.3f}, t {shown:.3f}: then the bootstrap could be shown"
    if n == 3:
        assert boot < 0.85, f"bootstrap: {boot:.3f}"


def test_the_corrected_interval_of_the_arm_that_looks_best_holds_its_true_difference():
    rng, studies = np.random.default_rng(7), 150
    own, corrected = 0, 0
    for _ in range(studies):
        found = compare_with_baseline(as_study(rng.normal(size=(1 + ARMS, 5))), "arm0")
        best = max(found, key=lambda d: d.mean)  # the truth is 0 for all
        own += best.low <= 0 <= best.high
        corrected += best.low_corrected <= 0 <= best.high_corrected
    assert corrected / studies >= 0.95 - tolerance(0.95, studies), f"{corrected} of {studies}"
    assert own < corrected, "an interval that is not corrected must suffer from the choice"


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize("noise", NOISES)
def test_two_thousand_whole_studies_claim_falsely_in_at_most_one_of_twenty(noise, seeds):
    values = noise(np.random.default_rng(8), (STUDIES, 1 + ARMS, seeds))
    found = [compare_with_baseline(as_study(v), "arm0") for v in values]
    rate = np.mean([any(d.verdict != "no difference shown" for d in f) for f in found])
    assert rate <= LEVEL + tolerance(LEVEL, STUDIES), f"{rate:.3f} of {STUDIES} studies claimed what is not so"
