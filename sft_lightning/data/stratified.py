"""Splits rows in two, in the same shares of each class: the rows that scikit-learn's `train_test_split` gives for a seed.

Written out here because importing scikit-learn, with scipy and pandas, takes a fifth of a short command's CPU time.
"""

import numpy as np


def two_parts(rows: np.ndarray, first: int, strata: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (`first` of the rows, the others), each in the order that the seed draws.

    Args:
        rows: `[R]`, any values.
        first: Size of the first part, from 1 to R − 1; with strata, each part has at least one row a class on average.
        strata: `[R]` class numbers, at least two rows of each; None to ignore classes.
        seed: From 0 to 2³² − 1.
    """
    rng = np.random.RandomState(seed)
    if strata is None:
        order = rng.permutation(len(rows))
        return rows[order[len(rows) - first :]], rows[order[: len(rows) - first]]
    _, numbers, counts = np.unique(strata, return_inverse=True, return_counts=True)
    of_class = np.split(np.argsort(numbers, kind="stable"), np.cumsum(counts)[:-1])
    in_first = allotted(counts, first, rng)
    in_second = allotted(counts - in_first, len(rows) - first, rng)
    parts: tuple[list[int], list[int]] = ([], [])
    for mine, one, other in zip(of_class, in_first, in_second, strict=True):
        drawn = mine[rng.permutation(len(mine))].tolist()
        parts[0].extend(drawn[:one])
        parts[1].extend(drawn[one : one + other])
    one, other = (rng.permutation(part) for part in parts)
    return rows[one], rows[other]


def allotted(counts: np.ndarray, draws: int, rng: np.random.RandomState) -> np.ndarray:
    """How many of `draws` fall to each class, in proportion to its count; `rng` breaks ties between equal remainders."""
    exact = counts / counts.sum() * draws
    found = np.floor(exact)
    missing = int(draws - found.sum())
    for remainder in np.sort(np.unique(exact - found))[::-1]:
        if missing <= 0:
            break
        (tied,) = np.where(exact - np.floor(exact) == remainder)
        more = min(len(tied), missing)
        found[rng.choice(tied, size=more, replace=False)] += 1
        missing -= more
    counted: np.ndarray = found.astype(int)
    return counted
