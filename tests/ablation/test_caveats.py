"""What is said beside a study's numbers: choices at an end, references, and which runs were tested."""

import csv
import json
from pathlib import Path

import pytest

from sft_lightning.ablation.caveats import FOLDS, OPTIMISM, at_end, end_of, ends_said, seen
from sft_lightning.ablation.collect import leaves_the_encoder
from sft_lightning.ablation.study import FRESH, Arm, make_study
from tests.ablation.test_studies import ARMS, BASE, ablate, attempts, write
from tests.refused import refused


@pytest.mark.parametrize(
    ("value", "tried", "end"),
    [
        (0.01, [0.001, 0.003, 0.01], "highest"),
        (0.001, [0.003, 0.001, 0.01], "lowest"),
        (0.003, [0.001, 0.003, 0.01], None),
        (0.0, [0.0, 0.1], None),  # nothing lies below 0
        (0.1, [0.0, 0.1], "highest"),
        (0.1, [0.1], None),
        (True, [True, False], None),
        ("cosine", ["cosine", "linear"], None),
        (0.00011, {"low": 1e-4, "high": 1.0, "log": True}, "lowest"),
        (0.011, {"low": 1e-4, "high": 1.0, "log": True}, None),
        (0.99, {"low": 0, "high": 1}, "highest"),
        (0.001, {"low": 0, "high": 1}, None),
    ],
)
def test_an_end_of_a_range(value: object, tried: object, end: str | None) -> None:
    assert end_of(value, tried) == end


def test_a_solved_strength_that_was_not_found_inside_its_range_is_one_too() -> None:
    arm = Arm("probe", {}, {})
    runs = [{"strength": 1e8, "at_end": "highest"}, {"strength": 1.0, "at_end": None}]
    found = at_end(arm, {}, runs)
    assert found == [{"key": "strength", "value": 1e8, "end": "highest"}]
    assert ends_said({"probe": found, "plain": []}).endswith("may lie beyond: probe (highest strength 1e+08).")
    assert ends_said({"plain": []}) == ""


def test_an_arm_that_trains_its_head_alone_is_a_reference() -> None:
    base = {"variant": "PlainSFT", "pretrained": {"name": "x"}}
    assert leaves_the_encoder({**base, "parameters": {"trainable": 10, "head": 10}})
    assert not leaves_the_encoder({**base, "parameters": {"trainable": 30, "head": 10}})
    assert not leaves_the_encoder({**base, "parameters": {"trainable": 10, "head": 10, "new": 0}}), (
        "a language model's head is pretrained: training it alone keeps nothing by construction"
    )
    assert leaves_the_encoder({**base, "variant": "LinearProbe", "parameters": {"trainable": 10, "head": 10}})
    assert not leaves_the_encoder({**base, "pretrained": {"name": None}, "parameters": {"trainable": 1, "head": 1}})


def study(**content: object):  # type: ignore[no-untyped-def]
    return make_study({"base": BASE, "arms": ARMS, "seeds": 2, **content}, Path("."), "mine")


def test_what_the_tested_runs_have_seen_is_said_unless_they_are_fresh() -> None:
    assert study().report_seeds is None and study(report_seeds=3).report_seeds == [FRESH, FRESH + 1, FRESH + 2]
    assert seen(study(), True) == [OPTIMISM] and seen(study(), False) == []
    assert seen(study(report_seeds=2), True) == [] and seen(study(folds=2), True) == [FOLDS]


@pytest.mark.parametrize(
    ("content", "key", "value"),
    [
        ({"report_seeds": [1, 5]}, "report_seeds", "seed 1"),
        ({"report_seeds": 0}, "report_seeds", "0"),
        ({"report_seeds": 2, "tune_seeds": 1}, "tune_seeds", "report_seeds"),
        ({"arms": {"plain": {"reference": "yes"}}}, "arms.plain.reference", "'yes'"),
    ],
)
def test_what_cannot_be_meant_is_refused(content: dict[str, object], key: str, value: str) -> None:
    with refused(key, value):
        study(**content)


@pytest.mark.slow
def test_fresh_seeds_are_fitted_with_the_chosen_setting_and_they_alone_are_tested(tmp_path: Path) -> None:
    arms = {"plain": ARMS["plain"], "probe": {"set": {"model.class_path": "LinearProbe"}}}
    file = write(tmp_path / "fresh.yaml", arms=arms, seeds=1, report_seeds=3)
    assert ablate(file, tmp_path) == 0
    folder = tmp_path / "fresh"
    with (folder / "points.csv").open() as opened:
        table = list(csv.DictReader(opened))
    tested = {(r["arm"], r["seed"]) for r in table if r["test/accuracy"]}
    assert tested == {(a, str(s)) for a in arms for s in (1000, 1001, 1002)}
    assert tested == {(r["arm"], r["seed"]) for r in table if r["selected"] == "1"}
    assert [r["seed"] for r in table if r["selected"] == "0"] == ["0", "0"], "the seed that chose, two settings"
    found = json.loads((folder / "study.json").read_text())
    (cell,) = found["cells"]
    assert (found["seeds"], found["report_seeds"], found["caveats"]) == ([0], [1000, 1001, 1002], [])
    assert cell["statistics"]["summaries"]["target"]["plain"]["n"] == 3, (
        "other runs than the fresh ones are in the means"
    )
    assert cell["statistics"]["references"] == ["probe"] and cell["arms"]["probe"]["reference"]
    assert "for reference, probe keeps all by construction" in found["answer"][0]
    (end,) = cell["arms"]["plain"]["at_end"]
    assert end["key"] == "lr" and end["end"] in ("lowest", "highest") and "may lie beyond: plain" in found["answer"][0]
    before = attempts(folder)
    assert ablate(file, tmp_path) == 0 and attempts(folder) == before, "finished points were computed again"
    assert ablate(write(tmp_path / "fresh.yaml", arms=arms, seeds=1, report_seeds=4), tmp_path) == 0
    assert len(attempts(folder)) == len(before) + 2 and set(before) < set(attempts(folder)), "a fourth seed of each arm"
