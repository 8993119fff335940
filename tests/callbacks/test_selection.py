"""Which checkpoint is best.ckpt, and that every number said of it is that one network's."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sft_lightning.callbacks.console import four_digits
from sft_lightning.evaluation.selection import Candidate
from sft_lightning.runs import Run, load
from tests.cli.conftest import Command, command  # noqa: F401  a fixture
from tests.survival.cases import on_digits, on_texts


@pytest.mark.parametrize(
    ("mode", "validations", "chosen"),
    [
        ("max", [(0.9, 0.5), (0.9, 0.3), (0.9, 0.3), (0.8, 0.1)], 1),
        ("min", [(2.0, 0.5), (1.0, 0.5), (1.0, 0.4), (1.0, 0.6)], 2),
        ("max", [(0.5, 0.5), (0.6, 9.0)], 1),
        ("max", [(0.5, math.nan), (0.5, 3.0), (0.5, math.nan)], 1),
        ("max", [(math.nan, 1.0), (0.1, 5.0), (math.nan, 0.1)], 1),
        ("max", [(0.5, None), (0.5, None)], 0),
        ("min", [(0.4, 0.4), (0.4, 0.4)], 0),
    ],
)
def test_a_tie_goes_to_the_lower_loss_and_then_to_the_earlier(
    mode: str, validations: list[tuple[float, float | None]], chosen: int
) -> None:
    held, at = None, None
    for i, validation in enumerate(validations):
        new = Candidate(*validation)
        if new.ahead(held, mode):
            held, at = new, i
    assert at == chosen, f"of {validations} number {at} was chosen"


def fitted(command: Command, config: dict[str, Any], folder: Path, *more: object) -> tuple[Run, str]:  # noqa: F811
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({**config, "wandb": "disabled"}))
    done = command("fit", "--config", file, *more)
    assert done.code == 0, done.err
    return done.run, done.out


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_best_of_all_metrics_is_one_network_and_among_equal_accuracies_that_of_the_lowest_loss(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = on_digits("plain", {"max_epochs": 14}, {})
    run, out = fitted(command, config, tmp_path)
    rows = [r for r in run.history() if "val/accuracy" in r and r["step"]]
    top = max(r["val/accuracy"] for r in rows)
    tied = [r for r in rows if r["val/accuracy"] == top]
    assert len(tied) > 1, "the run has no tie, so it shows nothing: take more epochs"
    wanted = min(tied, key=lambda r: r["val/loss"])
    assert wanted is not tied[0], "the first of the tied has the lowest loss, so the run shows nothing"
    assert run.record["selected"]["step"] == wanted["step"]
    assert torch.load(run.files.best, weights_only=True)["global_step"] == wanted["step"]
    for name, entry in run.record["metrics"].items():
        if name.startswith(("val/", "retention/", "drift/")):
            assert entry["best"] == entry["selected"] == wanted[name], f"the best of {name} is not best.ckpt's"
            assert (entry["best_step"], entry["final_step"]) == (wanted["step"], run.record["steps"])
    kept = run.record["metrics"]["retention/accuracy"]
    assert kept["extreme"] == max(r["retention/accuracy"] for r in rows), "the extreme over validations is not kept"
    assert run.metric("retention/accuracy", "best") == kept["best"]
    assert run.record["never_beat_start"] is False
    assert "no validation was better" not in out
    assert out.splitlines()[[line.startswith("metric ") for line in out.splitlines()].index(True)].split() == [
        *("metric", "before", "after", "at", "best.ckpt")
    ]
    (tested,) = [line for line in out.splitlines() if line.startswith("test ")]
    for name, value in run.record["test"].items():
        shown = f"{name if name.startswith('test/') else 'test/' + name} {value:.4f}"
        assert shown in tested, f"the line of test does not say '{shown}'"
    assert " retention/" not in tested and " drift/" not in tested, "test's retention goes by validation's name"
    assert run.record["metrics"]["test/accuracy"]["final_step"] == wanted["step"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_language_model_that_gets_worse_than_it_was_is_kept_as_it_was(command: Command, tmp_path: Path) -> None:  # noqa: F811
    config = on_texts(tmp_path, "causal_lm")
    config["model"]["init_args"] |= {"lr": 3.0}
    run, out = fitted(command, config, tmp_path)
    metrics, selected = run.record["metrics"], run.record["selected"]
    assert metrics["val/loss"]["final"] > metrics["val/loss"]["before"], "it did not get worse, so it shows nothing"
    assert (selected["step"], run.record["never_beat_start"]) == (0, True)
    for name, entry in metrics.items():
        if not name.startswith(("train/", "test/")):
            assert (entry["best"], entry["best_step"]) == (entry["before"], 0), f"{name} is not of step 0"
    pretrained = load_file(Path(config["network"]["init_args"]["pretrained"]) / "model.safetensors")
    exported = load_file(run.files.model / "model.safetensors")
    assert exported.keys() == pretrained.keys()
    assert all(torch.equal(exported[n], pretrained[n]) for n in exported), "what is exported is not the better network"
    note = [line for line in out.splitlines() if line.startswith("note ")]
    assert len(note) == 1 and "best.ckpt and model/ are the pretrained network itself" in note[0], out
    counted = run.record["n"]
    tested = command("validate", "--run", run.path, "--trainer.limit_val_batches", "0.5")
    assert tested.code == 0, tested.err
    record = load(run.path).record
    assert record["n"] == counted, "n is no longer that of the numbers which fit recorded"
    assert record["measured"]["validate"]["n"]["val"] == 4 < counted["val"]
    tested = command("validate", "--run", run.path)
    assert load(run.path).record["validate"]["val/loss"] == pytest.approx(metrics["val/loss"]["before"], rel=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_language_model_that_learns_is_chosen_as_before(command: Command, tmp_path: Path) -> None:  # noqa: F811
    run, out = fitted(command, on_texts(tmp_path, "causal_lm"), tmp_path)
    assert run.record["selected"]["step"] > 0
    assert run.record["never_beat_start"] is False
    assert "note " not in out


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_with_a_new_head_that_never_beat_its_start_says_so_and_keeps_a_trained_network(
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A new head knows nothing at step 0, which is therefore no candidate; that it was better is said all the same."""
    config = on_digits("plain", {"max_epochs": 2}, {}, lr=50.0)
    config |= {"select_by": "val/loss", "test_after_fit": False}
    run, out = fitted(command, config, tmp_path)
    entry = run.record["metrics"]["val/loss"]
    assert entry["best"] > entry["before"], "it beat its start, so it shows nothing"
    assert run.record["never_beat_start"] is True and run.record["selected"]["step"] > 0
    said = f"where val/loss was {four_digits(entry['before'])}: it is {four_digits(entry['best'])} at best.ckpt"
    assert said in out, out


def test_records_of_earlier_versions_are_read_with_an_honest_best(tmp_path: Path) -> None:
    old = {
        "schema": 1,
        "status": "finished",
        "selected": {"by": "val/accuracy", "step": 30, "epoch": 2},
        "metrics": {
            "retention/accuracy": {"before": 1.0, "final": 0.91, "best": 0.96, "best_step": 10, "selected": 0.92},
            "test/accuracy": {"final": 0.8, "best": 0.8, "best_step": 40},
            "val/loss": {"before": 2.0},
        },
    }
    (tmp_path / "run.json").write_text(json.dumps(old))
    run = load(tmp_path)
    assert run.metric("retention/accuracy", "best") == 0.92
    assert run.metric("retention/accuracy", "extreme") == 0.96
    assert run.record["metrics"]["retention/accuracy"]["best_step"] == 30
    assert run.metric("test/accuracy", "best") == 0.8
