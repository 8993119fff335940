"""An ablation's budget: how it is read, and how many seeds it allows."""

from typing import Any

import pytest

from sft_lightning.ablation.budget import parse_budget, seeds_for
from sft_lightning.ablation.cost import seconds_of_fit, seconds_of_test
from sft_lightning.ablation.selection import Metrics, candidate, choose
from sft_lightning.ablation.study import Select
from sft_lightning.ablation.study_dir import PointStatus
from sft_lightning.core.metric_info import MetricInfo
from tests.refused import refused


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("90m", 5400), ("2h30m", 9000), ("3600s", 3600), ("1.5h", 5400), ("1h 5m", 3900), ("1d", 86400)],
)
def test_a_budget_is_read(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1x", "-1h", "0s", "1h2h", "1h-30m", "soon"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with refused("--budget", f"'{text}'"):
        parse_budget(text)


def test_as_many_seeds_as_the_budget_allows_but_never_fewer_than_three() -> None:
    assert seeds_for(3600, lambda n: 600 * n, 1)[0] == 6
    assert seeds_for(3600, lambda n: 600 * n, 2)[0] == 12
    assert seeds_for(3600, lambda n: 1800 + 600 * n, 1)[0] == 3
    assert seeds_for(3600, lambda n: 10 * n, 2)[0] == 20
    few, why = seeds_for(600, lambda n: 600 * n, 1)
    assert few == 3 and "pays for 1" in why and "fewer than 3 show no spread" in why and "30 min" in why


def standing(seconds: float = 0.0, **record: Any) -> PointStatus:
    return PointStatus("finished", {"steps": 100, "epochs": 10, **record}, {"fit": {"seconds": seconds, "exit": 0}})


def test_a_fit_that_was_killed_costs_what_all_its_attempts_took() -> None:
    assert seconds_of_fit(standing(seconds=4.0, times={"fit_s": 40.0})) == 40.0
    assert seconds_of_fit(standing(seconds=50.0, times={"fit_s": 40.0})) == 50.0


def test_a_test_is_costed_by_its_samples_at_the_pace_of_the_fit() -> None:
    sizes = {
        "data": {"sizes": {"train": 100, "val": 50, "test": 500}},
        "retention": {"sizes": {"val": 50, "test": 1500}},
    }
    config = {"data": {"init_args": {"batch_size": 10}}, "trainer": {"check_val_every_n_epoch": 1}}
    # 100 steps of 10 at three passes, and 10 validations of 100: 4,000 passes in 40 s; the test has 2,000.
    assert seconds_of_test(standing(40.0, **sizes), config) == pytest.approx(20.0)
    limited = {**config, "trainer": {"check_val_every_n_epoch": 1, "limit_test_batches": 5}}
    assert seconds_of_test(standing(40.0, **sizes), limited) == pytest.approx(1.0), "50 and 50 samples"
    assert seconds_of_test(standing(40.0), config) == 0.0, "a record that has no sizes"


def test_of_settings_that_tie_the_one_with_the_lower_validation_loss_is_chosen() -> None:
    metrics = Metrics(MetricInfo("val/accuracy", "max"), None)
    tied = [candidate({"lr": lr}, [(0.9, None)], 1, [loss]) for lr, loss in ((0.1, 0.5), (0.2, 0.3), (0.3, 0.4))]
    found = [c for c in tied if c is not None]
    assert choose(found, Select(rule="best"), metrics)[0].setting == {"lr": 0.2}
    kept = Metrics(MetricInfo("val/accuracy", "max"), MetricInfo("retention/accuracy", "max"))
    tied = [candidate({"lr": lr}, [(0.9, 0.8)], 1, [loss]) for lr, loss in ((0.1, 0.5), (0.2, 0.3), (0.3, 0.4))]
    assert choose([c for c in tied if c is not None], Select(rule="keep"), kept)[0].setting == {"lr": 0.2}
