"""Runs of each kind of task: the gate measures what run.json holds, and every metric can be required."""

import math
import shutil
from pathlib import Path

import pytest
import yaml

from sft_lightning.cli.main import main
from sft_lightning.gate.decide import decide
from sft_lightning.gate.opened import Model, open_model, open_start
from sft_lightning.gate.requirement import parse
from sft_lightning.runs.load import load
from tests.export.cases import make_run

FEW = ("tokens-bert", "masks-unet")
SLOW = (
    *("classification-lora", "regression-roberta", "multi-label-distilbert", "choices-bert", "questions-none"),
    *("audio-mel", "speech-ctc", "speech-whisper", "seq2seq-t5", "boxes-timm"),
)


def check(model: Model, path: Path) -> None:
    """Values are the recorded ones, and each metric that has a direction passes against itself by a wide margin."""
    scores, run = model.scores(None, "val"), load(path)
    for name, value in scores.values.items():
        if f"val/{name}" in run.record["metrics"]:
            recorded = run.metric(f"val/{name}", "best")
            assert math.isclose(value, recorded, rel_tol=1e-5, abs_tol=1e-6), f"{name}: {value} instead of {recorded}"
        info = scores.task.metric_info(name)
        if info is not None and info.sign:
            text = f"val/{name} >= -0.9" if info.sign > 0 else f"val/{name} <= +0.9"
            (decision,) = decide(model, model, [parse(text)], 0.05)
            right = ("pass",) if decision.test.n >= 5 else ("pass", "undecided")  # with 4 equal scores p is 1/16
            assert decision.verdict in right and not decision.note, f"{text}: {decision.reason} {decision.note}"


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_each_kind_of_task_is_measured_as_its_run_was(name: str, tmp_path: Path) -> None:
    path = make_run(name, tmp_path)
    check(open_model(str(path)), path)


@pytest.mark.slow
def test_a_language_model_is_compared_with_its_start_in_both_columns(tmp_path: Path) -> None:
    first = make_run("lm-llama", tmp_path)
    config = yaml.safe_load((tmp_path / "lm-llama/config.yaml").read_text())
    shutil.copytree(first / "model", tmp_path / "model")
    config["network"]["init_args"] = {"pretrained": str(tmp_path / "model")}
    config |= {"experiment": "second", "retention": config["data"]}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(config))
    command = [
        "fit",
        "--config",
        str(tmp_path / "second.yaml"),
        "--runs_dir",
        str(tmp_path / "runs"),
        "--run_id",
        "one",
    ]
    assert main(command) == 0
    path = tmp_path / "runs/second/one"
    model = open_model(str(path))
    check(model, path)
    start, run = open_start(model), load(path)
    for metric, place in (("val/loss", None), ("retention/loss", "")):
        assert start.scores(place, "val").values["loss"] == pytest.approx(run.metric(metric, "before"), rel=1e-5)
        assert model.scores(place, "val").values["loss"] == pytest.approx(run.metric(metric, "best"), rel=1e-5)
