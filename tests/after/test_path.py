"""`path` from the command line: its numbers against a computation by hand, the run that it writes, and what it refuses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, log_loss

from sft_lightning.cli.main import main
from sft_lightning.data.sampler import Key
from sft_lightning.export.tuned import open_run
from sft_lightning.report.read import collect
from sft_lightning.runs.load import load
from tests.refused import check_printed
from tests.support import mlp

Path_ = Callable[..., tuple[int, str, str]]


@pytest.fixture
def path(capfd: pytest.CaptureFixture[str]) -> Path_:
    """`path(run, …)` returns the exit code, and what was printed."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["path", *map(str, arguments)])
        return code, *capfd.readouterr()

    return run


def test_the_curve_is_that_of_interpolated_weights(path: Path_, runs: dict[str, Path], tmp_path: Path) -> None:
    run, files = runs["plain"], [tmp_path / "curve.json", tmp_path / "curve.csv"]
    before = (run / "run.json").read_bytes()
    code, out, err = path(run, "--alphas", "1,0,0.5", "--json", files[0], "--csv", files[1])
    assert code == 0 and not err, err
    assert (run / "run.json").read_bytes() == before, "measuring a path changes the run"
    held, record = json.loads(files[0].read_text()), load(run)
    assert [p["alpha"] for p in held["points"]] == [0, 0.5, 1] and held["n"] == {
        "val": 168,
        "retention": 169,
        "drift": 168,
    }
    start, middle, end = (p["metrics"] for p in held["points"])
    for name, value in end.items():
        assert value == pytest.approx(record.metric(name, "best"), abs=1e-6), f"{name} at the tuned end"
    assert start["retention/accuracy"] == pytest.approx(record.metric("retention/accuracy", "before"))
    assert start["retention/forgetting"] == 0 and start["drift/kl"] == 0 and start["retention/agreement"] == 1

    # by hand: tensors from files, a network written out, metrics by scikit-learn
    tuned, w = open_run(run), torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    origin = load_file("sft_lightning/assets/digits-0-4/model.safetensors")
    w = {n.removeprefix("network."): v for n, v in w.items() if n.startswith("network.")}
    w = {n: (origin[n] + v) / 2 if n.startswith("encoder.") else v for n, v in w.items()}
    val = tuned.data.splits["val"]
    batch = val.__getitems__([Key(i, 0) for i in range(len(val))])
    output = mlp(w, tuned.data.receive(batch)["x"]["image"])
    assert middle["val/accuracy"] == pytest.approx(accuracy_score(batch["y"], output.logits.argmax(-1)))
    assert middle["val/loss"] == pytest.approx(log_loss(batch["y"], output.logits.double().softmax(-1)), rel=1e-5)

    with files[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["val/accuracy"]) for r in rows] == [p["metrics"]["val/accuracy"] for p in held["points"]]
    assert {r["n/val"] for r in rows} == {"168"}
    assert "chosen  alpha" in out and out.count("\n") == 2 + 4 + 1


def test_the_chosen_point_is_a_run_as_any_other(path: Path_, runs: dict[str, Path], capfd: Any) -> None:
    run = runs["plain"]
    code, out, err = path(run, "--how", "lines", "--margin", "0.1", "--write")
    assert code == 0 and not err, err
    made = run.parent.parent / "digits-plain-lines" / run.name
    found = sorted(str(p.relative_to(made)) for p in made.rglob("*") if p.is_file())
    assert found == [
        "checkpoints/best.ckpt",
        "config.yaml",
        "metrics.jsonl",
        "model/config.json",
        "model/model.safetensors",
        "model/source_head.json",
        "model/source_head.safetensors",
        "run.json",
    ]
    written, tuned = load(made), load(run)
    after = written.record["after"]
    alpha = after["alpha"]
    assert 0 < alpha < 1 and f"chosen  alpha {alpha:g}" in out and str(made) in out
    point = next(p for p in after["points"] if p["alpha"] == alpha)
    assert {n: written.metric(n, "best") for n in point["metrics"]} == point["metrics"]
    assert written.record["selected"]["by"] == tuned.record["selected"]["by"]
    assert written.record["n"] == {"val": 168, "retention": 169, "drift": 168} and "test" not in written.record

    assert main(["test", "--run", str(made)]) == 0
    again = load(made).record["test"]
    assert again["retention/accuracy"] > tuned.record["test"]["retention/accuracy"], "nothing more was kept"
    network = open_run(made).network  # checks that model/ and best.ckpt agree
    assert np.array_equal(network.head.weight.detach(), open_run(run).network.head.weight.detach()), "the head changed"
    assert main(["validate", "--run", str(made)]) == 0
    for name, value in load(made).record["validate"].items():
        assert value == pytest.approx(point["metrics"][name], abs=1e-6), f"{name} of the written run"

    comparison = collect([str(made), str(run)])
    assert len(comparison.runs) == 2 and not comparison.notes
    capfd.readouterr()
    assert main(["fit", "--resume", str(made)]) == 2
    check_printed(capfd.readouterr().err, "--resume", "last.ckpt")
    code, _, err = path(run, "--how", "lines", "--write")
    assert code == 2
    check_printed(err, "--write", made)


@pytest.mark.parametrize(
    ("name", "arguments", "key", "values"),
    [
        ("plain", ["--alphas", "0,1.5"], "--alphas", ["1.5"]),
        ("plain", ["--alphas", "half"], "--alphas", ["half"]),
        ("plain", ["--margin", "-0.1"], "--margin", ["-0.1"]),
        ("plain", ["--margin", "nan"], "--margin", ["nan"]),
        ("plain", ["--batchnorm", "interpolate"], "--batchnorm", ["no effect"]),
        ("plain", ["--json", "nowhere/curve.json"], "--json", ["nowhere"]),
        ("plain", ["--write", "not/a/name"], "--write", ["not/a/name"]),
        ("plain", ["--alpha", "0.5"], "--alpha", ["path"]),
        ("probe", [], "path", ["pretrained weight"]),
        ("blind", [], "trainer.limit_val_batches", ["is 0"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    path: Path_, runs: dict[str, Path], name: str, arguments: list[str], key: str, values: list[str]
) -> None:
    code, _, err = path(runs[name], *arguments)
    assert code == 2
    check_printed(err, key, *values)
