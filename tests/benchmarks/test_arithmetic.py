"""The speed benchmark's arithmetic on numbers whose results are known."""

import numpy as np
import pytest

from benchmarks.bench.arithmetic import largest_difference, noise, quantile, ratio, spread


def test_median_and_quartiles_are_numpys() -> None:
    values = [3.0, 9.0, 1.0, 4.0, 7.5]
    found = spread(values)
    expected = np.quantile(values, [0.25, 0.5, 0.75])
    assert [found.low, found.median, found.high] == pytest.approx(expected.tolist()) and found.n == 5
    assert quantile([2.0], 0.75) == 2.0


def test_no_value_has_no_median() -> None:
    with pytest.raises(ValueError, match="no value"):
        spread([])


def test_a_slow_moment_of_the_machine_is_in_both_arms_and_leaves_the_ratio() -> None:
    slow = [1.0, 1.0, 10.0, 1.0, 3.0]
    mine, theirs = [2.0 * s for s in slow], [4.0 * s for s in slow]
    found = ratio(mine, theirs)
    assert found.low == found.median == found.high == 0.5


def test_arms_with_different_numbers_of_turns_have_no_ratio() -> None:
    with pytest.raises(ValueError):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("again", "verdict"), [(1.029, "quiet"), (0.972, "quiet"), (1.04, "too noisy"), (0.9, "too noisy")]
)
def test_identical_arms_more_than_three_per_cent_apart_are_too_noisy(again: float, verdict: str) -> None:
    assert noise([again, again, 5.0], [1.0, 1.0, 5.0 / again]).verdict == verdict


def test_losses_are_compared_by_their_largest_relative_difference() -> None:
    assert largest_difference([2.0, 1.0], [2.0, 1.1]) == pytest.approx(0.1 / 1.1)
    assert largest_difference([1.0], [1.0, 1.0]) == float("inf"), "a step is missing"
    assert largest_difference([float("nan")], [1.0]) == float("inf"), "a loss is no number"
