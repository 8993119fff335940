"""A study that lacks a baseline is told which, and how to add it; one that has them is not."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_lightning.autoconfig.recipe import RECIPES, arms
from sft_lightning.autoconfig.reduced_studies import sizes
from sft_lightning.data import DATA_MODULES
from tests.report.conftest import Compare
from tests.report.written import write_study

STUDIES = sorted((Path(__file__).resolve().parents[2] / "experiments/ablations").glob("*.yaml"))
PROBE = {"set": {"model.freeze": "all-but-head"}, "tune": {"model.lr": [0.003, 0.01]}}
PLAIN = {"tune": {"model.lr": [0.001, 0.003]}}
L2SP = {"set": {"model.class_path": "L2SPSFT"}, "tune": {"model.alpha": [0.1, 1.0]}}


@pytest.fixture
def notes(tmp_path: Path, compare: Compare) -> Any:
    """`notes({"arms": …})`: what `compare` says of the baselines of a study with such a file."""

    def of(file: dict[str, Any], task: str = "classification", baseline: str = "plain", **config: Any) -> list[str]:
        study = write_study(tmp_path / "study", seeds=1, shots=(5,))
        content = json.loads((study / "study.json").read_text())
        (study / "study.json").write_text(json.dumps({**content, "file": file, "baseline": baseline}))
        for record in study.glob("*/run.json"):
            record.write_text(record.read_text().replace('"name": "classification"', f'"name": "{task}"'))
            if config:
                (record.parent / "config.yaml").write_text(yaml.safe_dump({"model": {"init_args": config}}))
        return [n for n in compare(study).notes if "linear probe" in n or "learning rate" in n]

    return of


@pytest.mark.parametrize("file", STUDIES, ids=lambda f: f.stem)
def test_a_shipped_study_has_its_baselines(file: Path, notes: Any) -> None:
    content = yaml.safe_load(file.read_text())
    data = yaml.safe_load((file.parent / content["base"]).read_text())["data"]["class_path"]
    said = notes(content, DATA_MODULES[data].task_name, baseline=content.get("baseline", "plain"))
    assert said == [], f"{file.name} has a probe and a tuned baseline, and compare says: {said}"


@pytest.mark.parametrize("family", RECIPES)
def test_the_default_study_has_its_baselines_however_small_a_budget_makes_it(family: str, notes: Any) -> None:
    language = family in ("language model", "encoder-decoder")
    whole = {"arms": arms(RECIPES[family], 10, 5 if language else None), "folds": 5}
    said = notes(sizes(whole)[-1].content, "causal_lm" if language else "classification")
    assert said == [], f"the default study of a {family} network is told: {said}"


def test_a_study_without_a_linear_probe_is_told_what_to_add(notes: Any) -> None:
    (said,) = notes({"arms": {"plain": PLAIN, "l2sp": L2SP}})
    assert "no arm is a linear probe" in said and "linear_probe: {set: {model.class_path: LinearProbe}}" in said


@pytest.mark.parametrize(
    "tune",
    [
        {},
        {"set": {"model.lr": 0.01}},
        {"tune": {"model.lr": [0.01]}},
        {"tune": {"model.lr": 0.01}},
        {"tune": {"model.weight_decay": [0.0, 0.1]}},
        {"search": {"trials": 3, "ranges": {"model.weight_decay": {"low": 0.0, "high": 0.1}}}},
        None,
    ],
)
def test_a_baseline_with_one_learning_rate_is_told_what_to_add(notes: Any, tune: Any) -> None:
    (said,) = notes({"arms": {"probe": PROBE, "plain": tune, "l2sp": L2SP}})
    assert "the learning rate of the baseline, plain, is not tuned" in said and "tune: {model.lr: […]}" in said


@pytest.mark.parametrize(
    "tuned",
    [
        {"tune": {"model.init_args.lr": [0.001, 0.01]}},
        {"search": {"ranges": {"model.lr": {"low": 0.001, "high": 0.1, "log": True}}}},
        {"search": {"ranges": {"model.init_args.lr": [0.001, 0.01]}}},
    ],
)
@pytest.mark.parametrize(
    "probe",
    [
        {"model.init_args.freeze": "all-but-head"},
        {"model": {"freeze": "all-but-head"}},
        {"model": {"class_path": "PlainSFT", "init_args": {"freeze": "all-but-head"}}},
        {"model.init_args": {"freeze": "all-but-head"}},
        {"model.class_path": "LinearProbe"},
        {"model": {"class_path": "sft_lightning.modules.LinearProbe"}},
    ],
)
def test_a_key_means_the_same_however_it_is_written(notes: Any, tuned: Any, probe: Any) -> None:
    assert notes({"arms": {"probe": {"set": probe}, "plain": tuned}}) == []


def test_a_probe_that_the_base_experiment_makes_is_one(notes: Any) -> None:
    file = {"base": "../frozen.yaml", "arms": {"probe": {}, "plain": {"set": {"model.freeze": None}, **PLAIN}}}
    assert notes(file, freeze="all-but-head") == []


def test_a_language_model_has_no_head_to_probe(notes: Any) -> None:
    file = {"arms": {"plain": PLAIN, "l2sp": L2SP}}
    assert notes(file, "causal_lm") == []


def test_a_baseline_alone_flatters_nobody(notes: Any) -> None:
    assert not any("learning rate" in n for n in notes({"arms": {"plain": {}}}))


@pytest.mark.parametrize("file", [{}, {"arms": None}, {"arms": ["plain"]}, {"arms": {"plain": "x", "b": {"set": [1]}}}])
def test_a_file_of_another_shape_is_no_error(notes: Any, file: Any) -> None:
    assert all("linear probe" in note or "learning rate" in note for note in notes(file))
