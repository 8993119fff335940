"""A run that was cut off anywhere and resumed ends bit-equal to one that was not."""

import random
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.cli.main import main
from tests.exactness.figures import note
from tests.support import VARIANTS
from tests.survival.cases import OF_ROWS, SETTINGS, on_digits, on_texts, write
from tests.survival.snapshots import difference, outcome


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFT_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs/x"


def command(*arguments: object) -> int:
    return main([str(a) for a in arguments])


def moments(folder: Path, several: int) -> list[Path]:
    """One snapshot of each kind, and some more by chance; without more, five of the kinds by chance."""
    found = sorted(folder.iterdir())
    kinds = {p.name.split("-")[1]: p for p in random.Random(0).sample(found, len(found))}
    if not several:
        return sorted(random.Random(folder.parent.name).sample(sorted(kinds.values()), min(5, len(kinds))))
    others = [p for p in found if p not in kinds.values()]
    return sorted([*kinds.values(), *random.Random(1).sample(others, min(several, len(others)))])


def check_cut_off(config: dict[str, Any], tmp_path: Path, several: int, what: str) -> None:
    """Trains once, keeping what is on disk at many moments, and resumes from those."""
    snapshots = {"class_path": "tests.survival.snapshots.Snapshots", "init_args": {"folder": str(tmp_path / "cut")}}
    watched = write(config, tmp_path / "watched.yaml", snapshots)
    assert command("fit", "--config", watched, "--run_id", "whole", "--experiment", "x", "--save_every_n_steps", 1) == 0
    whole = outcome(tmp_path / "runs/x/whole")
    plain = write(config, tmp_path / "plain.yaml")
    for cut in moments(tmp_path / "cut", several):
        code = command("fit", "--resume", cut, "--config", plain, "--experiment", "x")
        assert code == 0, f"cut off at {cut.name}, the run could not be resumed"
        found = difference(whole, outcome(cut))
        assert found is None, f"{what}: cut off at {cut.name} and resumed, the run differs: {found}"
        note(f"cut off and resumed, {what}: values that differ", 0)


def check_stopped(config: dict[str, Any], tmp_path: Path, several: int, what: str) -> None:
    """Stops by a signal at many moments, and resumes by the same command."""
    plain = write(config, tmp_path / "plain.yaml")
    assert command("fit", "--config", plain, "--run_id", "whole", "--experiment", "x") == 0
    whole = outcome(tmp_path / "runs/x/whole")
    for at in random.Random(what).sample(range(40), several):
        at_moment = {"class_path": "tests.survival.stops.SignalAt", "init_args": {"at": at}}
        stopping = write(config, tmp_path / "stopping.yaml", at_moment)
        run = ("--run_id", f"stopped-{at}", "--experiment", "x")
        code = command("fit", "--config", stopping, *run)
        assert code in (143, 0), f"after a signal the run ended with {code}"
        if code == 0:
            continue  # it had ended before
        assert command("fit", "--config", plain, *run, "--ckpt_path", "last") == 0
        found = difference(whole, outcome(tmp_path / f"runs/x/stopped-{at}"))
        assert found is None, f"{what}: stopped at moment {at} and resumed, the run differs: {found}"
        note("stopped by a signal and resumed: values that differ", 0)


@pytest.mark.parametrize(
    ("variant", "settings"),
    [  # every setting is quick in test_stopped_by_a_signal_at_any_moment
        pytest.param(*pair, marks=pytest.mark.slow if number % 4 else ())
        for number, pair in enumerate(zip(VARIANTS, cycle(SETTINGS), strict=False))
    ],
)
def test_cut_off_at_any_moment(tmp_path: Path, variant: str, settings: str) -> None:
    check_cut_off(on_digits(variant, **SETTINGS[settings]), tmp_path, 0, settings)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "task",
    [
        *("classification", "regression", "causal_lm", "seq2seq"),
        *(pytest.param(task, marks=pytest.mark.slow) for task in OF_ROWS),
    ],
)
def test_cut_off_with_every_task_on_texts(tmp_path: Path, task: str) -> None:
    check_cut_off(on_texts(tmp_path, task), tmp_path, 0, f"{task} on texts")


def test_cut_off_with_adapters(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = on_digits("distill-logits-mse", {}, {}, ema_decay=0.9)
    lora = {"class_path": "LoRA", "init_args": {"r": 4, "dropout": 0.1}}
    config["network"] = {**config["network"], "init_args": {**config["network"]["init_args"], "transforms": [lora]}}
    check_cut_off(config, tmp_path, 0, "adapters")


@pytest.mark.slow
def test_cut_off_in_either_phase_of_lpft(tmp_path: Path) -> None:
    """With an average, a schedule and micro-batches; the first of three epochs trains the new head alone."""
    settings = SETTINGS["average, schedule, crops"]
    lpft = {"class_path": "LPFT", "init_args": {"epochs": 1, "lr_factor": 0.5}}
    config = on_digits("l2sp-loss", **{**settings, "trainer": {**settings["trainer"], "callbacks": [lpft]}})
    check_cut_off(config, tmp_path, 3, "LPFT")


@pytest.mark.slow
def test_a_language_model_that_never_beats_its_start_keeps_it_wherever_it_is_cut_off(tmp_path: Path) -> None:
    config = on_texts(tmp_path, "causal_lm")
    config["model"]["init_args"]["lr"] = 3.0
    check_cut_off(config, tmp_path, 6, "causal_lm that gets worse")
    assert outcome(tmp_path / "runs/x/whole")["best step"] == 0


@pytest.mark.parametrize("settings", SETTINGS)
def test_stopped_by_a_signal_at_any_moment(tmp_path: Path, settings: str) -> None:
    check_stopped(on_digits("l2sp-loss", **SETTINGS[settings]), tmp_path, 1, settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_at_many_moments(tmp_path: Path, variant: str, settings: str) -> None:
    check_cut_off(on_digits(variant, **SETTINGS[settings]), tmp_path, 12, settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
def test_stopped_at_nearly_all_moments(tmp_path: Path, settings: str) -> None:
    check_stopped(on_digits("distill-logits-kl", **SETTINGS[settings]), tmp_path, 40, settings)


def test_a_run_that_ended_before_its_first_save_begins_again(tmp_path: Path, runs: Path) -> None:
    config = on_digits("plain", **SETTINGS["early stopping"])
    plain = write(config, tmp_path / "plain.yaml")
    fit: Callable[..., int] = lambda *more: command("fit", "--config", plain, "--experiment", "x", *more)  # noqa: E731
    assert fit("--run_id", "whole") == 0
    for name in ("by its directory", "by its name"):
        run = runs / name.replace(" ", "-")
        assert fit("--run_id", run.name) == 0
        for path in (run / "checkpoints").iterdir():
            path.unlink()
        (run / "run.json").write_text('{"schema": 1, "metrics": {}, "status": "running"}\n')
        code = (
            command("fit", "--resume", run) if "directory" in name else fit("--run_id", run.name, "--ckpt_path", "last")
        )
        assert code == 0
        assert difference(outcome(runs / "whole"), outcome(run)) is None


def test_the_split_of_the_work_may_change_on_resume(tmp_path: Path, runs: Path) -> None:
    """From one micro-batch a step to four, amid an epoch: no sample is left out or trained twice."""
    config = on_digits("distill-logits-mse", {"max_epochs": 4}, {})
    plain = write(config, tmp_path / "plain.yaml")
    assert command("fit", "--config", plain, "--run_id", "whole", "--experiment", "x") == 0
    at_moment = {"class_path": "tests.survival.stops.SignalAt", "init_args": {"at": 1}}
    stopping = write(config, tmp_path / "stopping.yaml", at_moment)
    split = ("--network.init_args.dropout", 0, "--experiment", "x")
    assert command("fit", "--config", stopping, "--run_id", "split", *split) == 143
    again = ("--ckpt_path", "last", "--trainer.accumulate_grad_batches", 4)
    assert command("fit", "--config", plain, "--run_id", "split", *split, *again) == 0
    assert command("fit", "--config", plain, "--run_id", "still", *split) == 0
    one, other = outcome(runs / "still"), outcome(runs / "split")
    assert [r["step"] for r in one["history"]] == [r["step"] for r in other["history"]]
    for name, value in one["weights"].items():
        error = float((value - other["weights"][name]).norm() / value.norm())
        assert error < 1e-5, f"{name} is off by {error:.1e} where the split changed on resume"
