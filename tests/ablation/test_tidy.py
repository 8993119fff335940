"""Which points' weights a study keeps."""

import json
import shutil

import pytest

from tests.ablation.test_studies import ablate, attempts, points, write

LOW, HIGH = "1e-06", "0.01"


def file(folder, rule, within):
    arms = {"plain": {"tune": {"model.lr": [1e-6, 0.01]}}}
    return write(folder / "small.yaml", arms=arms, seeds=1, select={"rule": rule, "within": within})


def with_weights(folder):
    """Learning rates of points that have a checkpoint, and of those that have an export."""
    rows = [(folder / r["point"], r["lr"]) for r in points(folder)]
    return [[lr for run, lr in rows if (run / part).exists()] for part in ("checkpoints/last.ckpt", "model")]


def test_all_stay_unless_asked_and_what_is_not_chosen_goes_when_it_is(tmp_path):
    best = file(tmp_path, "best", 0.01)
    assert ablate(best, tmp_path) == 0
    folder = tmp_path / "small"
    assert with_weights(folder) == [[LOW, HIGH]] * 2
    assert ablate(best, tmp_path, "--keep_weights", "chosen") == 0
    assert with_weights(folder) == [[HIGH]] * 2
    before = attempts(folder), (folder / "points.csv").read_bytes()
    assert ablate(best, tmp_path, "--keep_weights", "chosen") == 0
    assert (attempts(folder), (folder / "points.csv").read_bytes()) == before, "what was removed was fitted again"


@pytest.mark.slow
def test_what_was_removed_and_is_chosen_after_all_is_fitted_again_and_tested(tmp_path):
    assert ablate(file(tmp_path, "best", 0.01), tmp_path, "--keep_weights", "chosen") == 0
    folder = tmp_path / "small"
    (low,) = [r for r in points(folder) if r["lr"] == LOW]
    keeping = file(tmp_path, "keep", 1.0)  # any accuracy will do, and what moved least has kept most
    assert ablate(keeping, tmp_path, "--keep_weights", "chosen") == 0
    assert json.loads((folder / "study.json").read_text())["cells"][0]["arms"]["plain"]["chosen"] == {"lr": 1e-6}
    (again,) = [r for r in points(folder) if r["lr"] == LOW]
    assert attempts(folder)[low["point"]] == 2 and again["test/accuracy"]
    assert again["val/accuracy"] == low["val/accuracy"] and again["drift/weights_l2"] == low["drift/weights_l2"]
    assert with_weights(folder) == [[LOW]] * 2


@pytest.mark.slow
def test_much_room_that_could_be_freed_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sft_lightning.ablation.disk_usage.LARGE", 100_000)
    assert ablate(file(tmp_path, "best", 0.01), tmp_path) == 0
    assert (
        "GB are weights of settings that were not chosen: --keep_weights chosen removes them" in capsys.readouterr().out
    )
    for run in (tmp_path / "small").glob("*/checkpoints"):
        shutil.rmtree(run)
    monkeypatch.undo()
    assert ablate(file(tmp_path, "best", 0.01), tmp_path) == 0
    assert "GB are weights" not in capsys.readouterr().out
