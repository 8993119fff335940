"""Means, spread, grouping, best and front; and what is said of them."""

import csv
import io
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.report import read
from sft_lightning.report.build import compare as build
from sft_lightning.report.model import Comparison
from sft_lightning.report.summary import Row, answers, rows
from tests.report.conftest import Compare
from tests.report.written import outcome, write_run


def built(*paths: Path) -> tuple[Comparison, list[Row]]:
    comparison = build(read.collect([str(p) for p in paths]))
    return comparison, rows(comparison)


def test_means_and_spread_of_a_study_are_those_of_its_table(study: Path) -> None:
    _, found = built(study)
    with (study / "points.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(found) == 10, "five arms in two cells"
    for row in found:
        mine = [
            float(r["test/retention/accuracy"])
            for r in table
            if r["selected"] == "1"
            and r["arm"] == row.arm
            and r["shots_per_class"] == str(row.cell.at["shots_per_class"])
        ]
        kept = row.stats["retention/accuracy"]
        assert kept.n == 3 and kept.mean == pytest.approx(statistics.fmean(mine))
        assert kept.std == pytest.approx(statistics.stdev(mine))


def test_the_front_holds_what_no_other_arm_beats_on_both(study: Path) -> None:
    comparison, found = built(study)
    for cell in comparison.cells:
        mine = [r for r in found if r.cell is cell]
        place = {r.arm: (r.stats["val/accuracy"].mean, r.stats["retention/accuracy"].mean) for r in mine}
        beaten = {
            a for a, b in itertools.permutations(place, 2) if place[b][0] > place[a][0] and place[b][1] > place[a][1]
        }
        assert {r.arm for r in mine if r.front} == place.keys() - beaten
        assert "plain" in {r.arm for r in mine if r.front}


def test_less_is_better_where_the_metric_says_so(tmp_path: Path) -> None:
    for arm, kl in (("near", 0.1), ("far", 2.0)):
        write_run(tmp_path / arm, experiment=arm, values={**outcome(0, 20, 0), "kl": kl})
    _, found = built(tmp_path)
    assert {r.arm: "drift/kl" in r.best for r in found} == {"near": True, "far": False}


def test_runs_without_the_main_metric_are_told_how_to_be_compared(tmp_path: Path) -> None:
    for name, shots, target in (("a", 5, "accuracy"), ("b", 5, "accuracy"), ("c", 20, "f1_macro")):
        write_run(tmp_path / name, experiment=name, data={"shots_per_class": shots}, target=target)
    said = {label.rpartition(" ")[2]: text for label, text in answers(*built(tmp_path))}
    assert said["5"].startswith("On test, ")
    assert said["20"] == "The finished runs here lack val/accuracy: name a metric that they have with --metric."


def test_runs_that_differ_in_seeds_alone_are_repetitions(tmp_path: Path) -> None:
    for seed in range(4):
        write_run(tmp_path / f"{seed}", seed=seed)
    _, found = built(tmp_path)
    assert [(r.arm, r.n, r.setting) for r in found] == [("digits", 4, "")]


def test_runs_of_one_experiment_with_several_strengths_are_settings_of_one_arm(tmp_path: Path) -> None:
    for weight, seed in itertools.product((0.1, 0.3), (0, 1)):
        write_run(tmp_path / f"{weight}-{seed}", variant="DistillSFT", seed=seed, settings={"anchor_weight": weight})
    _, found = built(tmp_path)
    assert [(r.group, r.n) for r in found] == [("digits, anchor_weight 0.1", 2), ("digits, anchor_weight 0.3", 2)]


def test_variants_are_the_arms_where_all_runs_are_of_one_experiment(tmp_path: Path) -> None:
    write_run(tmp_path / "a", variant="PlainSFT")
    write_run(tmp_path / "b", variant="L2SPSFT")
    assert [r.arm for r in built(tmp_path)[1]] == ["PlainSFT", "L2SPSFT"]


def test_shots_of_loose_runs_are_an_axis(tmp_path: Path) -> None:
    for shots in (50, 5, 20):
        write_run(tmp_path / str(shots), data={"shots_per_class": shots})
    comparison, _ = built(tmp_path)
    assert [c.at for c in comparison.cells] == [{"shots_per_class": s} for s in (5, 20, 50)]


def test_a_seed_that_was_run_twice_counts_once(tmp_path: Path) -> None:
    for i, seed in enumerate((0, 0, 1)):
        write_run(tmp_path / str(i), seed=seed)
    assert [r.n for r in built(tmp_path)[1]] == [2]


def test_one_seed_says_that_nothing_is_known_of_the_spread(tmp_path: Path, compare: Compare) -> None:
    write_run(tmp_path / "a", experiment="a")
    write_run(tmp_path / "b", experiment="b", values=outcome(1.0, 20, 0))
    said = compare(tmp_path)
    assert "nothing is known of the spread" in said.out
    assert "±" not in said.out.split("mean ±")[0], "one seed has no deviation to show"


def test_two_seeds_claim_no_difference(tmp_path: Path, compare: Compare) -> None:
    for arm, seed in itertools.product(("a", "b"), (0, 1)):
        write_run(tmp_path / f"{arm}{seed}", experiment=arm, seed=seed, values=outcome(float(arm == "b"), 20, seed))
    assert "no test of the differences was made" in compare(tmp_path).out


def test_three_common_seeds_are_tested_as_a_study_is(tmp_path: Path, compare: Compare) -> None:
    for (arm, variant, strength), seed in itertools.product((("a", "L2SPSFT", 1.0), ("b", "PlainSFT", 0.0)), range(5)):
        write_run(
            tmp_path / f"{arm}{seed}", experiment=arm, variant=variant, seed=seed, values=outcome(strength, 20, seed)
        )
    said = compare(tmp_path, "--format", "json")
    content: dict[str, Any] = json.loads(said.out)
    assert content["baseline"] == "b", "the plain variant is the baseline"
    assert "a keeps more than b" in content["answer"][0]["text"] and "over 5 seeds" in content["answer"][0]["text"]


def test_arms_without_test_values_are_compared_on_validation(tmp_path: Path) -> None:
    write_run(tmp_path / "a", experiment="a")
    write_run(tmp_path / "b", experiment="b", tested=False)
    assert {r.split for r in built(tmp_path)[1]} == {"val"}, "like is compared with like"


def test_a_study_that_has_chosen_nothing_yet_shows_every_setting(study: Path, tmp_path: Path, compare: Compare) -> None:
    text = (study / "points.csv").read_text().splitlines()
    columns = text[0].split(",")
    at = columns.index("selected")
    lines = [",".join(["0" if i == at else v for i, v in enumerate(line.split(","))]) for line in text[1:]]
    (tmp_path / "points.csv").write_text("\n".join([text[0], *lines]) + "\n")
    (tmp_path / "study.json").write_text(json.dumps({"schema": 1, "study": "digits", "metrics": None, "cells": []}))
    said = compare(tmp_path, "--format", "csv")
    assert len(list(csv.DictReader(io.StringIO(said.out)))) >= 14
    assert any("nothing is chosen yet" in n for n in said.notes)


def test_a_study_and_loose_runs_stand_side_by_side(study: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "mine")
    comparison, found = built(study, tmp_path)
    assert {c.study for c in comparison.cells} == {"digits", "runs"} and len(found) == 11
