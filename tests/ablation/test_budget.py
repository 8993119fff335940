"""An ablation's budget: how it is read, and how many seeds it allows."""

import pytest

from sft_lightning.ablation.budget import parse_budget, seeds_for
from sft_lightning.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("90m", 5400), ("2h30m", 9000), ("3600s", 3600), ("1.5h", 5400), ("1h 5m", 3900), ("1d", 86400)],
)
def test_a_budget_is_read(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1x", "-1h", "0s", "1h2h", "1h-30m", "soon"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--budget"):
        parse_budget(text)


def test_as_many_seeds_as_the_budget_allows_but_never_fewer_than_three() -> None:
    assert seeds_for(3600, 600, 1)[0] == 6
    assert seeds_for(3600, 600, 2)[0] == 12
    assert seeds_for(3600, 600, 1, fixed_s=1800)[0] == 3
    assert seeds_for(3600, 10, 2)[0] == 20
    few, why = seeds_for(600, 600, 1)
    assert few == 3 and "fewer than 3 show no spread" in why and "30 min" in why
