"""The rows that `make test` keeps of a product hold every pair of values."""

from itertools import combinations, product

from tests.cover import pairwise

FACTORS = (("a", "b", "c"), (1, 2, 3, 4), (True, False), ("x", "y", "z"))


def pairs(rows):  # type: ignore[no-untyped-def]
    return {pair for row in rows for pair in combinations(enumerate(row), 2)}


def test_every_two_values_of_different_factors_meet() -> None:
    assert pairs(pairwise(*FACTORS)) == pairs(product(*FACTORS))


def test_rows_are_few_and_the_same_each_time() -> None:
    rows = pairwise(*FACTORS)
    assert len(rows) <= 1.5 * 4 * 3, "the two largest factors alone need 12"
    assert rows == pairwise(*FACTORS)


def test_what_is_not_allowed_is_left_out_and_what_it_would_have_covered_is_still_there() -> None:
    def allowed(letter: str, number: int, *_: object) -> bool:
        return (letter, number) != ("b", 4)

    rows = pairwise(*FACTORS, allowed=allowed)
    assert all(allowed(*row) for row in rows)
    assert pairs(rows) == pairs(row for row in product(*FACTORS) if allowed(*row))
