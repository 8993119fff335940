"""A budget over a study's life: what it settles, that it stays settled, and when it is settled anew."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sft_lightning.ablation import progress
from sft_lightning.ablation.budget import SLACK
from sft_lightning.ablation.budgeted_study import Budget, Sized
from sft_lightning.ablation.pace import Pace, length
from sft_lightning.ablation.progress import ending
from sft_lightning.ablation.study import make_study
from sft_lightning.ablation.study_dir import MOST_KILLS, StudyDir
from sft_lightning.ablation.worker import by_signal, why
from sft_lightning.autoconfig.reduced_studies import sizes
from tests.ablation.test_studies import ARMS, BASE, ablate, attempts, points, write
from tests.refused import check_printed

SETTLED = {"size": 0, "seeds": 4, "why": ["4 seeds"]}


def study(tmp_path: Path, **content: Any) -> Any:
    return make_study({"base": BASE, "arms": ARMS, "seeds": 20, **content}, tmp_path, "x")


def test_what_was_settled_is_held_for_the_same_study_and_budget_alone(tmp_path: Path) -> None:
    first = Budget(60.0, [Sized(study(tmp_path))])
    held = {**first.record, **SETTLED}
    assert Budget(60.0, [Sized(study(tmp_path))], held).seeds == 4
    assert Budget(61.0, [Sized(study(tmp_path))], held).seeds is None, "another budget"
    assert Budget(60.0, [Sized(study(tmp_path, set={"trainer.max_epochs": 9}))], held).seeds is None, "another study"
    assert Budget(60.0, [Sized(study(tmp_path))], {"seconds": 60.0, "seeds": 4}).seeds is None, (
        "an older version's note"
    )


PACE = Pace(
    {"plain": 0.1, "distill": 0.2}, row_s=0.01, other_s=1.0, sizes={"data": {"train": 20, "val": 50, "test": 200}}
)


def test_a_study_costs_its_steps_its_validations_and_its_tests(tmp_path: Path) -> None:
    made = study(tmp_path, tune_seeds=1)  # 2 arms of 2 settings: 4 fits on the first seed, 2 on each of 2 more
    plain, distill = (PACE.fit(made, arm, tokens=1.0) for arm in made.arms)
    validations = 3 * 50 * 0.01  # before training, and after 3 and 6 epochs, each of one step
    assert plain == pytest.approx(1.0 + 6 * 0.1 + validations)
    assert distill == pytest.approx(1.0 + 6 * 0.2 + validations)
    tests = 6 * (1.0 + 200 * 0.01)
    assert PACE.study(made) == pytest.approx(4 * (plain + distill) * SLACK + tests)
    assert PACE.fit(made, made.arms[0], tokens=0.5) == pytest.approx(1.0 + (6 * 0.1 + validations) / 2)


@pytest.mark.parametrize(
    ("trainer", "steps_and_validations"),
    [
        ({"max_epochs": 6, "check_val_every_n_epoch": 3}, (60, 2)),
        ({"max_epochs": 2}, (20, 2)),
        ({"max_epochs": 1, "max_steps": 7, "val_check_interval": 2}, (7, 3)),
        ({"max_epochs": 4, "val_check_interval": 5}, (40, 8)),
    ],
)
def test_how_long_a_fit_is_follows_from_its_trainer(trainer: dict[str, Any], steps_and_validations: Any) -> None:
    assert length(trainer, rows=100, batch=10) == steps_and_validations


def test_a_limited_evaluation_costs_what_the_limit_lets_through(tmp_path: Path) -> None:
    config = {"data": {"init_args": {"batch_size": 20}}, "trainer": {"limit_val_batches": 2, "limit_test_batches": 0.5}}
    assert PACE.rows("val", config) == 40 and PACE.rows("test", config) == 100


def test_a_job_that_is_killed_is_tried_again_until_it_was_killed_three_times_in_a_row(tmp_path: Path) -> None:
    folder = StudyDir(tmp_path)
    folder.make()
    seen = []
    for _ in range(MOST_KILLS):
        note = folder.add_note("p", "fit", exit=137, reason=by_signal(9), seconds=1.0)
        seen.append((folder.standing("p").status, ending(note["fit"])))
    assert [status for status, _ in seen] == ["queued", "queued", "failed"]
    assert seen[0][1].startswith("interrupted: its process was killed by SIGKILL") and "1 of 3" in seen[0][1]
    assert seen[2][1].startswith("failed: its process was killed by SIGKILL")
    folder.note("p").unlink()
    folder.add_note("p", "fit", exit=137, reason="", seconds=1.0)
    folder.add_note("p", "fit", exit=143, reason="", seconds=1.0)
    folder.add_note("p", "fit", exit=137, reason="", seconds=1.0)
    assert folder.standing("p").status == "queued", "kills with another ending between them are not in a row"


def test_an_attempt_that_ended_by_a_signal_and_printed_nothing_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    assert why(log, 0, 143) == "it was asked to stop by SIGTERM"
    assert why(log, 0, 137).startswith("its process was killed by SIGKILL")
    assert why(log, 0, 1) == "it printed nothing"


def test_off_a_terminal_a_study_says_each_minute_what_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = SimpleNamespace(label="plain lr=0.1 seed 0")
    scheduler: Any = SimpleNamespace(under_way={("fit", "p")}, points={"p": point})
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.Progress(scheduler, 1, quiet=False)
    for now[0] in (0.0, 30.0, 59.0, 61.0, 90.0, 125.0):
        shown.show()
    said = capsys.readouterr().out.splitlines()
    assert said == ["working: fit plain lr=0.1 seed 0 for 61 s", "working: fit plain lr=0.1 seed 0 for 2 min"]


def test_a_fit_to_be_timed_that_fails_leaves_the_smallest_study(tmp_path: Path) -> None:
    content = {"base": BASE, "arms": ARMS, "seeds": 20}
    budget = Budget(60.0, [Sized(make_study(s.content, tmp_path, "x"), s.left_out) for s in sizes(content)])

    class FailedEngine:
        timing: list[Any] = []
        folder = StudyDir(tmp_path)
        resized = None

        def resize(self, study: Any) -> None:
            self.resized = study

    scheduler: Any = FailedEngine()
    budget.settle_size(scheduler, 2)
    assert budget.size == len(budget.sizes) - 1 and scheduler.resized is budget.sizes[-1][0]
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
    check_printed(capsys.readouterr().err, "--seeds")
    assert not (tmp_path / "runs").exists()


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


@pytest.mark.slow
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
    from sft_lightning.config.resolve import resolve

    found = []
    for folds in (None, 5):
        made = study(tmp_path, folds=folds)
        arm = made.arm("plain")
        found.append(Plan(made, resolve).final(arm, made.cells[0], arm.settings[0], [0])[0].id)
    assert found[0] == found[1]
