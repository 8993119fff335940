"""Splits in two are those of scikit-learn, and digits are its digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from sft_lightning.data.stratified import two_parts
from sft_lightning.data.vision.digits import read_digits


def test_the_rows_of_both_parts_are_scikit_learns_in_its_order() -> None:
    draw, stratified = np.random.default_rng(0), 0
    for seed in range(60):
        classes = int(draw.integers(1, 9))
        strata = np.concatenate([np.arange(classes).repeat(2), draw.integers(0, classes, draw.integers(0, 200))])
        strata = draw.permutation(strata) * 7 - 3
        rows = draw.choice(1000, len(strata), replace=False)
        first = int(draw.integers(1, len(rows)))
        given = None if min(first, len(rows) - first) < classes else strata
        stratified += given is not None
        theirs = train_test_split(rows, train_size=first, stratify=given, random_state=seed)
        for one, other in zip(two_parts(rows, first, given, seed), theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    assert stratified > 30


@pytest.mark.parametrize("size", [1, 25, 449])
def test_the_part_cut_off_is_the_one_that_a_test_size_gives(size: int) -> None:
    targets = read_digits()[1]
    rows, given = np.arange(len(targets)), targets if size >= 10 else None
    theirs = train_test_split(rows, test_size=size, stratify=given, random_state=0)
    for one, other in zip(two_parts(rows, len(rows) - size, given, 0), theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_digits_are_those_of_scikit_learn() -> None:
    theirs, (values, targets) = load_digits(), read_digits()
    np.testing.assert_array_equal(values, theirs.images)
    np.testing.assert_array_equal(targets, theirs.target)
