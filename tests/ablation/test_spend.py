"""A budget over a study's life: what it settles, that it stays settled, and when it is settled anew."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_lightning.ablation.front_door.thrift import sizes
from sft_lightning.ablation.spend import Budget, cost_of
from sft_lightning.ablation.study import make_study
from tests.ablation.test_studies import ARMS, BASE, ablate, attempts, points, write

SETTLED = {"size": 0, "seeds": 4, "why": ["4 seeds"]}


def study(tmp_path: Path, **content: Any) -> Any:
    return make_study({"base": BASE, "arms": ARMS, "seeds": 20, **content}, tmp_path, "x")


def test_what_was_settled_is_held_for_the_same_study_and_budget_alone(tmp_path: Path) -> None:
    first = Budget(60.0, [(study(tmp_path), ())])
    held = {**first.record, **SETTLED}
    assert Budget(60.0, [(study(tmp_path), ())], held).seeds == 4
    assert Budget(61.0, [(study(tmp_path), ())], held).seeds is None, "another budget"
    assert Budget(60.0, [(study(tmp_path, set={"trainer.max_epochs": 9}), ())], held).seeds is None, "another study"
    assert Budget(60.0, [(study(tmp_path), ())], {"seconds": 60.0, "seeds": 4}).seeds is None, "an older version's note"


def test_a_study_costs_its_fits_and_its_tests(tmp_path: Path) -> None:
    made = study(
        tmp_path, tune_seeds=1
    )  # two arms of two settings: four fits on the first seed, two on each of two more
    assert cost_of(made, fit=10.0, test=0.0) == pytest.approx(8 * 10 * 1.25)
    assert cost_of(made, fit=10.0, test=3.0) == pytest.approx(8 * 10 * 1.25 + 6 * 3)


def test_a_fit_to_be_timed_that_fails_leaves_the_smallest_study(tmp_path: Path) -> None:
    content = {"base": BASE, "arms": ARMS, "seeds": 20}
    budget = Budget(60.0, [(make_study(s.content, tmp_path, "x"), s.left_out) for s in sizes(content)])

    class FailedEngine:
        only = None
        resized = None

        def resize(self, study: Any) -> None:
            self.resized = study

    engine: Any = FailedEngine()
    budget.settle_size(engine, 2)
    assert budget.size == len(budget.sizes) - 1 and engine.resized is budget.sizes[-1][0]
    assert "failed" in budget.why[0]


@pytest.mark.slow
def test_a_budget_goes_with_the_files_seeds_and_its_study_yaml_can_be_run(tmp_path: Path) -> None:
    file = write(tmp_path / "listed.yaml", arms={"plain": ARMS["plain"]}, seeds=[7, 8, 9, 10], tune_seeds=4)
    assert ablate(file, tmp_path, "--budget", "1s") == 0
    assert json.loads((tmp_path / "listed" / "study.json").read_text())["seeds"] == [7, 8, 9]
    again = yaml.safe_load((tmp_path / "listed" / "study.yaml").read_text())
    assert make_study(again, tmp_path, "x").tune_seeds == [7, 8, 9]

    before = attempts(tmp_path / "listed")
    assert ablate(file, tmp_path, "--budget", "1s") == 0
    assert attempts(tmp_path / "listed") == before, "a settled study was begun anew"
    assert len(points(tmp_path / "listed")) == 6


def test_seeds_and_a_budget_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate(write(tmp_path / "both.yaml"), tmp_path / "runs", "--budget", "1h", "--seeds", "2") == 2
    assert "--seeds: the budget settles their number" in capsys.readouterr().err and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_an_arm_that_tunes_what_it_starts_from_has_an_answer(tmp_path: Path) -> None:
    arms = {
        "plain": {"tune": {"network.pretrained": ["builtin:digits-0-4", None]}},
        "slow": {"set": {"model.lr": 1e-4}},
    }
    base = {k: v for k, v in BASE.items() if k != "retention"}
    select = {"target": "val/accuracy", "kept": "val/loss"}
    file = write(tmp_path / "start.yaml", base=base, arms=arms, select=select, seeds=3)
    assert ablate(file, tmp_path) == 0
    (cell,) = json.loads((tmp_path / "start" / "study.json").read_text())["cells"]
    assert cell["mixed"] is None and cell["statistics"]


def test_training_data_that_changed_before_more_seeds_were_run_gives_no_answer(tmp_path: Path) -> None:
    def file(split: str, word: str) -> str:
        rows = [f"{'good' if i % 2 else 'bad'} {i} {word if i % 2 else 'poor'},{i % 2}" for i in range(60)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
        return str(tmp_path / f"{split}.csv")

    texts = {"class_path": "TextTable", "init_args": {"train": file("train", "fine"), "test": file("test", "fine")}}
    network = {"class_path": "LSTM", "init_args": {"embedding_dim": 8, "hidden": 8}}
    base = {
        "model": BASE["model"],
        "network": network,
        "data": texts,
        "trainer": {"max_epochs": 1},
        "wandb": "disabled",
    }
    arms = {"plain": {}, "slow": {"set": {"model.lr": 1e-4}}}
    assert ablate(write(tmp_path / "grown.yaml", base=base, arms=arms, seeds=1), tmp_path) == 0
    file("train", "great")
    assert ablate(write(tmp_path / "grown.yaml", base=base, arms=arms, seeds=2), tmp_path) == 0
    (answer,) = json.loads((tmp_path / "grown" / "study.json").read_text())["answer"]
    assert answer == "No answer: the training or validation data changed between points: give the study another name."


def test_of_how_many_folds_none_is_left_out_makes_no_other_point(tmp_path: Path) -> None:
    from sft_lightning.ablation.plan import Plan
    from sft_lightning.ablation.resolve import Resolver

    found = []
    for folds in (None, 5):
        made = study(tmp_path, folds=folds)
        arm = made.arm("plain")
        found.append(Plan(made, Resolver()).final(arm, made.cells[0], arm.settings[0], [0])[0].id)
    assert found[0] == found[1]
