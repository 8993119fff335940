"""ONNX graphs with int8 weights: what they lose is measured on validation, for what was learned and what was kept."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sft_lightning.cli.main import main
from sft_lightning.export import writing
from sft_lightning.export.formats import FORMATS, NEW, SOURCE
from sft_lightning.export.int8 import INT8, add_int8
from sft_lightning.export.tuned import Tuned
from tests.export.cases import CASES
from tests.refused import refused

Get = Callable[[str], Tuned]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("classification-timm-onnx", "tokens-bert-onnx", "choices-bert-onnx", "questions-bert-onnx")
    ],
)
def test_the_graph_is_smaller_and_measured_for_each_kind_of_input(name: str, tuned: Get, tmp_path: Path) -> None:
    run, network = tuned(name), FORMATS[CASES[name].format]()
    network.write(run, tmp_path, (NEW,), False)
    found = add_int8(run, tmp_path, (NEW,))
    metric = run.task.primary.name
    head = found["heads"]["new"]
    assert (tmp_path / INT8).is_file() and head["metric"] == metric and head["n"] == len(run.data.splits["val"])
    assert head["float32"] == pytest.approx(run.run.metrics[f"val/{metric}"], abs=1e-5)


def test_both_metrics_are_measured_printed_and_written(
    tuned: Get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnx

    run = tuned("classification-mlp-onnx")
    monkeypatch.setattr(writing, "compared", lambda *_: {"format": "onnx", "library": "onnxruntime", "heads": {}})
    command = ["export", str(run.run.path), "--format", "onnx", "--int8", "--to", str(tmp_path / "out")]
    assert main(command) == 0
    printed = capsys.readouterr().out
    heads = json.loads((tmp_path / "out/parity.json").read_text())["int8"]["heads"]
    metrics = run.run.metrics
    for head, name in (("new", "val/accuracy"), ("source", "retention/accuracy")):
        assert heads[head]["float32"] == pytest.approx(metrics[name], abs=1e-6), f"{head} is not what the run measured"
        said = f"int8, {head} head: accuracy {heads[head]['int8']:.4f} instead of {heads[head]['float32']:.4f}"
        assert said in printed and said in (tmp_path / "out/README.md").read_text()
    kept = {p.key: p.value for p in onnx.load(str(tmp_path / "out" / INT8)).metadata_props}
    assert json.loads(kept["int8"]) == heads and "labels" in kept
    assert {NEW, SOURCE} == set(heads)
    with refused("--int8", "no effect on safetensors", "--format onnx"):
        writing.export_run(run.run.path, tmp_path / "other", "safetensors", int8=True)
