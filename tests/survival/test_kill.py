"""SIGKILL at any moment: a loadable last.ckpt, and a run that ends as if nothing had been."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.runs import load
from tests.exactness.figures import note
from tests.survival.cases import on_texts, write
from tests.survival.snapshots import difference, outcome
from tests.survival.zygote import Zygote

FIT = (
    "fit", "--config", "experiments/digits/distill.yaml", "--trainer.max_epochs", 12, "--wandb", "disabled",
    "--trainer.check_val_every_n_epoch", 3, "--save_every_n_steps", 1, "--experiment", "x", "--ckpt_path", "last",
    "--network.init_args.dropout", 0.2, "--model.init_args.ema_decay", 0.9, "--data.augment", "[crop]",
    "--model.init_args.lr_schedule", "cosine", "--trainer.accumulate_grad_batches", 2,
)  # fmt: skip


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"SFT_RUNS_DIR": str(tmp_path / "runs"), **more}


@pytest.fixture(scope="module")
def whole(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """The outcome of an undisturbed run, and its seconds."""
    folder, began = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    code = zygote.run([*FIT, "--run_id", "whole"], folder / "out", environment(folder))
    seconds = time.monotonic() - began
    assert code == 0, (folder / "out").read_text()
    return outcome(folder / "runs/x/whole"), seconds


@pytest.fixture(scope="module")
def undisturbed(whole: tuple[dict[str, Any], float]) -> dict[str, Any]:
    return whole[0]


def check_loadable(run: Path, when: str) -> None:
    """After the first save there is always a checkpoint, whole."""
    last = run / "checkpoints/last.ckpt"
    seen = run.parent / f"{run.name}.had-a-checkpoint"
    if last.is_file():
        torch.load(last, weights_only=True)
        seen.touch()
    assert last.is_file() or not seen.is_file(), f"last.ckpt is gone after a kill {when}"
    for name in ("run.json", "config.yaml"):
        if (run / name).is_file():
            text = (run / name).read_text()
            assert text.endswith("\n"), f"{name} is torn after a kill {when}"
            assert not name.endswith("json") or json.loads(text)


def killed_run(zygote: Zygote, tmp_path: Path, kills: int, seed: int, workers: int, longest: float) -> int:
    """A run that is killed after random times, of at most `longest` seconds, and begun again by the same command, then left to
    end.
    """
    chance, done, run = random.Random(seed), 0, tmp_path / "runs/x/killed"
    command = [*FIT, "--run_id", "killed", "--data.num_workers", workers]
    while done < kills:
        pid = zygote.spawn(command, tmp_path / "out", environment(tmp_path))
        time.sleep(chance.uniform(0.1, longest))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            break
        code = zygote.wait(pid)
        if code == 0:
            break  # it had ended before
        assert code == -signal.SIGKILL, (tmp_path / "out").read_text()
        done += 1
        check_loadable(run, f"number {done}")
    code = zygote.run(command, tmp_path / "out", environment(tmp_path))
    assert code == 0, (tmp_path / "out").read_text()
    return done


@pytest.mark.parametrize(("kills", "workers"), [(3, 0), pytest.param(20, 0, marks=pytest.mark.slow),
                                                pytest.param(20, 2, marks=pytest.mark.slow)])  # fmt: skip
def test_a_run_killed_at_random_moments_ends_as_if_nothing_had_been(
    zygote: Zygote, whole: tuple[dict[str, Any], float], tmp_path: Path, kills: int, workers: int
) -> None:
    undisturbed, seconds = whole
    for share in (0.6, 0.3, 0.15):  # the undisturbed run may have been timed while other work slowed it
        folder = tmp_path / str(share)
        folder.mkdir()
        done = killed_run(zygote, folder, kills, seed=kills + workers, workers=workers, longest=share * seconds)
        if done >= min(kills, 3):
            break
    assert done >= min(kills, 3), "the run was too short to be killed"
    found = difference(undisturbed, outcome(folder / "runs/x/killed"))
    assert found is None, f"after {done} kills the run differs: {found}"
    for _ in range(done):
        note(f"killed at a random moment and resumed, {workers} workers: values that differ", 0)


MOMENTS = ["half:5", "rename:12"]
MORE = [
    "fsync:20",
    "renamed:13",
    "half:1",
    "half:2",
    "fsync:1",
    "fsync:4",
    "rename:3",
    "rename:4",
    "renamed:3",
    "renamed:4",
    "fsync:60",
]


@pytest.mark.parametrize("moment", [*MOMENTS, *(pytest.param(m, marks=pytest.mark.slow) for m in MORE)])
def test_a_run_killed_while_it_writes_ends_as_if_nothing_had_been(
    zygote: Zygote, undisturbed: dict[str, Any], tmp_path: Path, moment: str
) -> None:
    run, command = tmp_path / "runs/x/killed", [*FIT, "--run_id", "killed"]
    dying = [command[0], "--import", "tests.survival.dying", *command[1:]]
    code = zygote.run(dying, tmp_path / "out", environment(tmp_path, SFT_TEST_DIE=moment))
    assert code == -signal.SIGKILL, f"it was not killed:\n{(tmp_path / 'out').read_text()}"
    check_loadable(run, f"at {moment}")
    code = zygote.run(command, tmp_path / "out", environment(tmp_path))
    assert code == 0, (tmp_path / "out").read_text()
    found = difference(undisturbed, outcome(run))
    assert found is None, f"killed at {moment}, the run differs: {found}"
    assert not list(run.rglob("*.tmp")), "half-written files are left"
    note("killed while a file is written and resumed: values that differ", 0)


@pytest.mark.parametrize(
    ("task", "moment"), [("seq2seq", "generate:6"), pytest.param("extractive_qa", "answer:46", marks=pytest.mark.slow)]
)
def test_a_run_killed_amid_the_texts_or_answers_of_a_validation_ends_as_if_nothing_had_been(
    zygote: Zygote, tmp_path: Path, task: str, moment: str
) -> None:
    config = on_texts(tmp_path, task)
    config["save_every_n_steps"] = 1
    file, out = write(config, tmp_path / "config.yaml"), tmp_path / "out"
    fit = ["fit", "--config", str(file), "--experiment", "x"]
    assert zygote.run([*fit, "--run_id", "whole"], out, environment(tmp_path)) == 0, out.read_text()
    dying = ["fit", "--import", "tests.survival.dying", *fit[1:], "--run_id", "killed"]
    code = zygote.run(dying, out, environment(tmp_path, SFT_TEST_DIE=moment))
    assert code == -signal.SIGKILL, out.read_text()
    check_loadable(tmp_path / "runs/x/killed", "while it validated")
    steps = [row["step"] for row in load(tmp_path / "runs/x/killed").history()]
    assert steps and max(steps) < max(row["step"] for row in load(tmp_path / "runs/x/whole").history()), (
        "no kill amid it"
    )
    again = [*fit, "--run_id", "killed", "--ckpt_path", "last"]
    assert zygote.run(again, out, environment(tmp_path)) == 0, out.read_text()
    found = difference(outcome(tmp_path / "runs/x/whole"), outcome(tmp_path / "runs/x/killed"))
    assert found is None, f"the run differs: {found}"
