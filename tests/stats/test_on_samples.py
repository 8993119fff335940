"""Tests of one model against another on the same samples: against libraries and brute force, and how often they are wrong."""

import numpy as np
import pytest
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar

from sft_lightning.gate.chosen_test import parts_of
from sft_lightning.stats import score_test
from sft_lightning.stats.on_samples import SampleTest, level, paired, resampled, with_unseen

ALPHA = 0.05
TABLES = [(0, 0, 30), (3, 0, 40), (0, 5, 60), (7, 4, 50), (2, 30, 300), (10, 10, 20), (1, 0, 1000), (60, 41, 5000)]
MARGINS = (-0.2, -0.01, 0.05)


def scores(gained: int, lost: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models' scores: half of the samples on which they agree are right."""
    both = (np.arange(n - gained - lost) % 2).astype(float)
    first = np.concatenate([np.ones(gained), np.zeros(lost), both])
    return first, np.concatenate([np.zeros(gained), np.ones(lost), both])


def log_likelihood(share: float, b: int, c: int, n: int, margin: float) -> float:
    parts = (b, share + margin), (c, share), (n - b - c, 1 - 2 * share - margin)
    return sum(k * np.log(max(p, 1e-300)) for k, p in parts if k)


@pytest.mark.parametrize("margin", MARGINS)
def test_the_score_test_takes_the_most_likely_share_under_the_margin(margin: float) -> None:
    low, high = max(0.0, -margin), (1 - margin) / 2
    for b, c, n in TABLES:
        found = float(score_test.second_share(np.array(float(b)), np.array(float(c)), n, margin))
        best = optimize.minimize_scalar(
            lambda s, t=(b, c, n): -log_likelihood(s, *t, margin),
            bounds=(low, high),
            method="bounded",
            options={"xatol": 1e-12},
        )
        mine, other = (log_likelihood(s, b, c, n, margin) for s in (found, best.x))
        assert low <= found <= high and mine >= other - 1e-5, f"b {b}, c {c}, n {n}: {found} instead of {best.x}"


def test_at_margin_zero_the_statistic_is_mcnemars_and_p_is_its_exact_p() -> None:
    for b, c, n in TABLES:
        theirs = mcnemar([[0, b], [c, 0]], exact=False, correction=False).statistic if b + c else 0.0
        assert float(score_test.statistic(np.array(b), np.array(c), n, 0.0)) ** 2 == pytest.approx(theirs)
        found = paired(*scores(b, c, n), 0.0, ALPHA)
        assert min(1.0, 2 * min(found.p_above, found.p_below)) == pytest.approx(mcnemar([[0, b], [c, 0]]).pvalue)
        assert (found.gained, found.lost, found.n) == (b, c, n)


def test_the_interval_holds_exactly_the_margins_that_the_score_test_does_not_reject() -> None:
    z = stats.norm.isf(ALPHA)
    for b, c, n in TABLES:
        low, high = score_test.interval(b, c, n, ALPHA)
        assert -1 <= low <= (b - c) / n <= high <= 1
        for end, wanted in ((low, z), (high, -z)):
            if abs(end) < 1:
                assert float(score_test.statistic(np.array(float(b)), np.array(float(c)), n, end)) == pytest.approx(
                    wanted, abs=1e-4
                )


@pytest.mark.parametrize("margin", [-0.1, 0.1])
def test_the_exact_p_is_that_of_all_tables_counted_one_by_one(margin: float) -> None:
    n = 9
    tables = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    held = {t: float(score_test.statistic(np.array(float(t[0])), np.array(float(t[1])), n, margin)) for t in tables}
    low, high = max(0.0, -margin), (1 - margin) / 2
    for table in tables[::5]:
        as_large = np.array([(*t, n - sum(t)) for t in tables if held[t] >= held[table] - 1e-9])
        places = low + (high - low) * np.linspace(0, 1 - 1e-9, 150) ** 2  # scipy gives NaN at the very end
        worst = max(stats.multinomial.pmf(as_large, n, (q + margin, q, 1 - 2 * q - margin)).sum() for q in places)
        assert score_test.p_above(*table, n, margin) == pytest.approx(worst, abs=1e-3)


@pytest.mark.parametrize("n", [30, 150])
@pytest.mark.parametrize("margin", [-0.05, -0.01, 0.02])
def test_with_few_samples_a_wrong_pass_is_never_more_frequent_than_stated(n: int, margin: float) -> None:
    places, p = score_test.exact_table(n, margin)
    b, c = np.nonzero(places >= 0)
    passed = p[places[b, c]] <= ALPHA
    low, high = max(0.0, -margin), (1 - margin) / 2
    for share in low + (high - low) * np.random.default_rng(0).uniform(size=40) ** 3:
        chances = (share + margin, share, 1 - 2 * share - margin)
        rate = stats.multinomial.pmf(np.stack([b, c, n - b - c], 1)[passed], n, chances).sum()
        assert rate <= ALPHA + 1e-3, f"{rate:.4f} wrong passes if {share:.3f} are right in the base alone"


def rates(gained: np.ndarray, lost: np.ndarray, n: int, margin: float) -> tuple[float, float]:
    """(share of passes, share of fails) over simulated tables; each different table is tested once."""
    tables, times = np.unique(np.stack([gained, lost], 1), axis=0, return_counts=True)
    found = [paired_counts(int(b), int(c), n, margin) for b, c in tables]
    both = (np.array([[p <= ALPHA for p in one] for one in found]) * times[:, None]).sum(0) / times.sum()
    return float(both[0]), float(both[1])


def paired_counts(b: int, c: int, n: int, margin: float) -> tuple[float, float]:
    if margin == 0:
        return float(stats.binom.sf(b - 1, b + c, 0.5)), float(stats.binom.sf(c - 1, b + c, 0.5))
    return score_test.p_above(b, c, n, margin), score_test.p_below(b, c, n, margin)


def simulated(n: int, margin: float, share: float, times: int) -> tuple[float, float]:
    draws = np.random.default_rng(1).multinomial(n, (share + margin, share, 1 - 2 * share - margin), size=times)
    return rates(draws[:, 0], draws[:, 1], n, margin)


def check_rates(n: int, margin: float, share: float, times: int, level: float = ALPHA) -> None:
    """At the margin itself both verdicts are wrong, and may come at the stated level: plus three standard errors here."""
    allowed = level + 3 * (ALPHA * (1 - ALPHA) / times) ** 0.5
    for rate, what in zip(simulated(n, margin, share, times), ("pass", "fail"), strict=True):
        assert rate <= allowed, f"n {n}, margin {margin}, {share} lost: {rate:.3f} of the gates {what} wrongly"


@pytest.mark.parametrize(
    ("n", "margin", "share"),
    [
        (200, -0.01, 0.02),
        (200, -0.05, 0.06),
        (200, 0.0, 0.05),
        (1000, -0.01, 0.03),
        (1000, 0.02, 0.05),
        (5000, -0.01, 0.02),
    ],
)
def test_a_gate_at_the_margin_is_wrong_as_often_as_stated_in_both_directions(
    n: int, margin: float, share: float
) -> None:
    check_rates(n, margin, share, 2_000)


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 400, 401, 2000, 20_000])
@pytest.mark.parametrize("margin", [-0.05, -0.01, -0.005, 0.0, 0.02])
@pytest.mark.parametrize("more", [0.002, 0.02, 0.2])
def test_many_gates_at_the_margin_are_wrong_as_often_as_stated(n: int, margin: float, more: float) -> None:
    approximate = n > score_test.EXACT and margin != 0
    check_rates(n, margin, max(0.0, -margin) + more, 20_000, 0.055 if approximate else ALPHA)


def test_as_many_samples_as_named_decide_four_times_of_five() -> None:
    for b, c, n, margin in ((4, 6, 200, -0.03), (12, 4, 200, 0.0), (2, 14, 200, -0.02), (3, 3, 300, -0.01)):
        needed = paired(*scores(b, c, n), margin, ALPHA).needed
        assert needed is not None and needed > n
        draws = np.random.default_rng(2).multinomial(needed, (b / n, c / n, 1 - (b + c) / n), size=2_000)
        decided = rates(draws[:, 0], draws[:, 1], needed, margin)[0 if (b - c) / n > margin else 1]
        assert 0.72 <= decided <= 0.9, (
            f"{needed} samples decide {decided:.2f} of the gates (b {b}, c {c}, n {n}, {margin})"
        )


def test_equal_answers_alone_do_not_show_that_a_model_is_no_worse() -> None:
    few, many = (paired(*scores(0, 0, n), -0.01, ALPHA) for n in (100, 300))
    assert few.p_above > ALPHA and few.needed == 299 and many.p_above <= ALPHA
    assert paired(*scores(0, 0, 10_000), 0.0, ALPHA).needed is None, "that it is better would never be shown"


def test_means_are_tested_by_the_paired_t_test() -> None:
    random = np.random.default_rng(3)
    first, second = random.normal(0, 1, 80), random.normal(0.2, 1, 80)
    found = paired(first, second, 0.1, ALPHA)
    theirs = stats.ttest_rel(first, second + 0.1, alternative="greater")
    interval = stats.ttest_rel(first, second).confidence_interval(1 - 2 * ALPHA)
    assert (found.p_above, found.p_below) == pytest.approx((theirs.pvalue, 1 - theirs.pvalue))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_a_level_is_tested_by_the_exact_binomial_test() -> None:
    found = level(np.array([1.0] * 93 + [0.0] * 7), 0.85, ALPHA)
    assert found.p_above == pytest.approx(stats.binomtest(93, 100, 0.85, alternative="greater").pvalue)
    assert found.p_below == pytest.approx(stats.binomtest(93, 100, 0.85, alternative="less").pvalue)
    perfect = level(np.ones(20), 0.9, ALPHA)
    assert perfect.p_above > ALPHA and perfect.needed == 29 and level(np.ones(29), 0.9, ALPHA).p_above <= ALPHA


def test_differences_without_any_spread_are_shown_with_enough_samples_alone() -> None:
    assert paired(np.full(4, 0.5), np.full(4, 0.5), -0.1, ALPHA).p_above == 0.5**4
    assert paired(np.full(5, 0.5), np.full(5, 0.5), -0.1, ALPHA).p_above <= ALPHA
    assert paired(np.full(2, 0.5), np.full(2, 0.5), -0.1, ALPHA).p_above == 1


def test_a_share_that_is_equal_on_few_samples_is_not_shown_to_be_no_worse() -> None:
    few, many = (with_unseen(resampled(0.0, np.zeros(50), n, -0.01, ALPHA), -0.01, ALPHA) for n in (100, 300))
    assert few.p_above == pytest.approx(0.99**100) and few.low < -0.01 and few.needed == 299
    assert many.p_above <= ALPHA and many.low > -0.01
    exact = paired(*scores(3, 1, 50), -0.05, ALPHA)
    assert with_unseen(exact, -0.05, ALPHA) == exact, "the score test allows for it by itself"


@pytest.mark.slow
def test_the_bootstrap_of_macro_f1_is_wrong_about_as_often_as_stated() -> None:
    """Two models that are equally good on the whole population: margin 0 must be passed and failed in about 5 % each."""
    random, n, times = np.random.default_rng(4), 300, 600
    found: list[SampleTest] = []
    for _ in range(times):
        y = random.choice(3, n, p=(0.5, 0.3, 0.2))
        said = [np.where(random.random(n) < 0.8, y, random.choice(3, n)) for _ in range(2)]
        draws = random.multinomial(n, np.full(n, 1 / n), size=400).astype(float)
        one, other = (f1(y, s, draws) for s in said)
        whole = [float(f1(y, s, np.ones((1, n)))[0]) for s in said]
        found.append(resampled(whole[0] - whole[1], one - other, n, 0.0, ALPHA))
    for rate in (np.mean([t.p_above <= ALPHA for t in found]), np.mean([t.p_below <= ALPHA for t in found])):
        assert 0.02 <= rate <= 0.08, f"{rate:.3f} of the gates are wrong"


def f1(y: np.ndarray, said: np.ndarray, draws: np.ndarray) -> np.ndarray:
    parts = []
    for k in range(3):
        right, true, claimed = (draws @ held.astype(float) for held in ((y == k) & (said == k), y == k, said == k))
        parts.append(2 * right / np.maximum(true + claimed, 1e-9))
    return np.mean(parts, 0)


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "right"), [((300, 30), (0.95, 0.7)), ((150, 150), (0.9, 0.8))])
def test_the_gate_of_a_harmonic_mean_is_wrong_at_most_about_as_often_as_stated(
    sizes: tuple[int, int], right: tuple[float, float]
) -> None:
    """Samples that are lost may be missing in a small group: without allowing for that, 24 % of the first case's gates pass."""
    random, n, wrong = np.random.default_rng(0), sum(sizes), np.zeros(2)
    of_groups = [
        np.array([p - 0.04, 0.02, 0.04, 1 - p - 0.02]) for p in right
    ]  # right in both, in the first, second, none
    held = np.concatenate([p * size / n for p, size in zip(of_groups, sizes, strict=True)])

    def means(counts: np.ndarray, only: int) -> list[np.ndarray]:
        groups = counts[..., :4], counts[..., 4:]
        return [(group[..., 0] + group[..., only]) / np.maximum(group.sum(-1), 1e-9) for group in groups]

    def difference(counts: np.ndarray) -> np.ndarray:
        first, second = (2 * a * b / np.maximum(a + b, 1e-9) for a, b in (means(counts, 1), means(counts, 2)))
        return np.asarray(first - second)

    gates, margin = 1500, float(difference(held * n))
    for _ in range(gates):
        counts = np.concatenate([random.multinomial(size, p) for p, size in zip(of_groups, sizes, strict=True)])
        draws = difference(random.multinomial(n, counts / n, 300))
        a, b = (float(mean) for mean in means(counts, 1))
        values = {"accuracy_old": a, "accuracy_new": b, "samples_old": sizes[0], "samples_new": sizes[1]}
        found = resampled(float(difference(counts)), draws, n, margin, ALPHA)
        found = with_unseen(found, margin, ALPHA, parts_of("harmonic", values))
        wrong += (found.p_above <= ALPHA, found.p_below <= ALPHA)
    assert (wrong / gates <= 0.065).all(), f"{wrong / gates} of the gates are wrong, and 5 % is stated"
