"""The default study under a budget: what is given up, in which order, and that one command ends with the answer."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_lightning.ablation.budget import fits_of, size_for
from sft_lightning.ablation.study import make_study
from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.autoconfig.reduced_studies import sizes
from sft_lightning.cli.main import main
from tests.autoconfig.files import folder

ARMS = ["linear_probe", "plain", "l2sp", "distill"]


def test_what_costs_the_comparison_least_is_given_up_first(nets: dict[str, str], tmp_path: Path) -> None:
    whole, _ = front_door(nets["lenet"], folder(tmp_path / "new"))
    found = sizes(whole)
    assert found[0].content == whole and found[0].left_out == ()
    assert [len(s.left_out) for s in found] == [0, 1, 2, 3]
    assert "first seed" in found[1].left_out[0] and found[1].content["tune_seeds"] == 1
    assert "l2sp and distill have the one learning rate 0.001" in found[2].left_out[1]
    assert "cross-validation" in found[3].left_out[2] and "folds" not in found[3].content
    assert [make_study(s.content, tmp_path, "x").folds for s in found] == [5, 5, 5, None]


def test_the_least_study_keeps_every_arm_and_the_baselines_learning_rates(nets: dict[str, str], tmp_path: Path) -> None:
    whole, _ = front_door(nets["lenet"], folder(tmp_path / "new"))
    least = sizes(whole)[-1].content
    assert list(least["arms"]) == ARMS
    for name in ("linear_probe", "plain"):
        assert least["arms"][name] == whole["arms"][name], f"{name} is no longer tuned as it was"
    for name in ("l2sp", "distill"):
        before, after = whole["arms"][name]["tune"], least["arms"][name]["tune"]
        assert {k: v for k, v in after.items() if k != "model.lr"} == {
            k: v for k, v in before.items() if k != "model.lr"
        }
        assert after["model.lr"] == [whole["base"]["model"]["init_args"]["lr"]]


@pytest.mark.parametrize(
    ("settings", "tune_seeds", "folds", "seeds", "fits"),
    [
        ([1], 1, None, 3, 3),  # one setting: each seed once
        ([3], 3, None, 3, 9),  # the chosen setting's fits are among those of tuning
        ([3], 1, None, 3, 3 + 2),
        ([3, 9], 1, None, 3, 12 + 2 * 2),
        ([3], 1, 5, 3, 15 + 3),  # with folds the chosen setting is trained on all labels for each seed
        ([3, 1], 3, 5, 3, 45 + 3 + 3),
        ([3], 20, None, 3, 9),  # seeds that are not run are not tuned on
    ],
)
def test_fits_are_counted_as_the_engine_makes_them(
    settings: list[int], tune_seeds: int, folds: int | None, seeds: int, fits: int
) -> None:
    assert fits_of(settings, tune_seeds, folds, seeds) == fits


def test_the_largest_study_that_the_budget_pays_for_is_taken() -> None:
    costs = [1250.0, 500.0, 250.0]
    assert size_for(1e6, costs, 1)[0] == 0
    assert size_for(800, costs, 1)[0] == 1
    assert size_for(800, costs, 2)[0] == 0, "two at a time"
    index, said = size_for(1, costs, 1)
    assert index == 2 and "more than the 1 s" in said


def content_of(trainer: dict[str, Any], **more: Any) -> dict[str, Any]:
    data = {"class_path": "TextTable", "init_args": {"max_length": 128}}
    return {"base": {"trainer": trainer, "data": data}, "arms": {}, "tune_seeds": 1, **more}


def test_after_fits_are_few_their_steps_are_halved_and_then_the_texts() -> None:
    epochs = content_of({"max_epochs": 20, "check_val_every_n_epoch": 2})
    found = sizes(epochs, steps=320, tokens=[200, 100, 60, 40])
    trainers = [s.content["base"]["trainer"] for s in found]
    assert [t["max_epochs"] for t in trainers] == [20, 10, 5, 5, 5]
    assert [t["check_val_every_n_epoch"] for t in trainers] == [2, 2, 1, 1, 1]
    assert [s.left_out for s in found[1:3]] == [("a fit has 160 of 320 steps",), ("a fit has 80 of 320 steps",)]
    lengths = [s.content["base"]["data"]["init_args"]["max_length"] for s in found]
    assert lengths == [128, 128, 128, 64, 32]
    assert found[3].left_out[-1] == "texts are cut at 64 tokens, which 50% of them exceed"
    assert found[3].tokens == pytest.approx((64 + 64 + 60 + 40) / (128 + 100 + 60 + 40))
    assert found[4].left_out[-1] == "texts are cut at 32 tokens, which 100% of them exceed"


def test_one_long_epoch_is_cut_within_it_and_validated_five_times() -> None:
    within = sizes(content_of({"max_epochs": 1, "max_steps": 600, "val_check_interval": 60}), steps=600)
    assert [s.content["base"]["trainer"]["max_steps"] for s in within] == [600, 300, 150, 75]
    assert within[-1].content["base"]["trainer"]["val_check_interval"] == 15


def test_what_the_user_says_of_steps_and_lengths_stays() -> None:
    said = content_of({"max_epochs": 20}, set={"trainer.max_epochs": 9, "data.max_length": 50})
    assert [s.left_out for s in sizes(said, steps=320, tokens=[200, 100])] == [()]


SHORT = ["--set", "trainer.max_epochs=2", "--set", "trainer.check_val_every_n_epoch=1"]


def test_one_command_with_a_network_and_data_ends_with_the_answer(
    nets: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = folder(tmp_path / "animals")
    command = ["ablate", "--network", nets["lenet"], "--data", data, "--budget", "0.1s", *SHORT, "--threads", "1"]
    command += ["--runs_dir", str(tmp_path / "runs"), "--wandb", "disabled", "--workers", "2"]
    assert main(command) == 0
    said = capsys.readouterr().out
    (study,) = [p for p in (tmp_path / "runs").iterdir() if (p / "study.json").is_file()]
    found = json.loads((study / "study.json").read_text())
    assert "timing the first steps of plain and distill" in said and not (study / "timing").exists()
    assert set(found["budget"]["pace"]["step_s"]) == {"plain", "distill"} and found["budget"]["kept"] is False
    assert "goes beyond the budget: --budget " in said, "nobody said that the budget is too small, nor which would do"
    budget: dict[str, Any] = found["budget"]
    assert found["status"] == "finished" and found["seeds"] == [0, 1, 2] and budget["seeds"] == 3
    assert len(budget["left_out"]) == 3, f"0.1 s pay for no more than the least study, and this was kept: {budget}"
    assert all(line in said for line in budget["why"])
    (cell,) = found["cells"]
    assert list(cell["arms"]) == ARMS and len(found["answer"]) == 1 and found["answer"][0] in " ".join(said.split())
    tested = [p for arm in cell["arms"].values() for p in arm["points"]]
    assert len(tested) == 4 * 3 and found["points"]["tested"] == 12
    assert found["points"]["total"] == 3 * 3 + 3 * 2 + 3, (
        "three settings of each arm that trains on the first seed, the chosen ones on two more; the probe on three"
    )
    page = (study / "report.html").read_text()
    assert "smaller than the default study" in page, "the page does not say what the budget left out"
    again = yaml.safe_load((study / "study.yaml").read_text())
    assert again["seeds"] == [0, 1, 2] and again["tune_seeds"] == 1 and "folds" not in again

    before = {p.name for p in study.iterdir()}
    assert main(command) == 0, "the same command goes on with what was settled"
    assert {p.name for p in study.iterdir()} == before
    assert json.loads((study / "study.json").read_text())["budget"] == budget
