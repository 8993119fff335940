"""Pairwise cover: of a product of factors, few rows in which any two values of different factors still meet.

A fault that one option causes, or two together, shows in such rows; the others are marked slow, for `make test-all`.
"""

from collections.abc import Callable, Hashable, Sequence
from itertools import combinations, product
from typing import Any

import pytest

Row = tuple[Any, ...]


def pairwise(*factors: Sequence[Hashable], allowed: Callable[..., bool] = lambda *row: True) -> list[Row]:
    """Rows of the product that are allowed, the one with the most new pairs first; the same rows each time."""

    def pairs(row: Row) -> set[Any]:
        return set(combinations(enumerate(row), 2))

    rows = [row for row in product(*factors) if allowed(*row)]
    missing, chosen = set[Any]().union(*map(pairs, rows)), list[Row]()
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))  # the first of the best
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def covering(names: str, *factors: Sequence[Hashable], allowed: Callable[..., bool] = lambda *row: True) -> Any:
    """`parametrize` over the whole product, in which a pairwise cover is quick and the rest is slow."""
    quick = set(pairwise(*factors, allowed=allowed))
    rows = [row for row in product(*factors) if allowed(*row)]
    return pytest.mark.parametrize(
        names.split(), [pytest.param(*r, marks=() if r in quick else pytest.mark.slow) for r in rows]
    )
