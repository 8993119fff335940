"""`gate` from the command line: its exit codes, its words, and that it measures what the runs recorded."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sft_lightning.cli.main import main
from sft_lightning.core.structures import Batch, Output
from sft_lightning.export.card import CONFIG
from sft_lightning.export.formats import FORMATS
from sft_lightning.export.tuned import open_run
from sft_lightning.gate.decide import decide
from sft_lightning.gate.opened import open_model, open_start
from sft_lightning.gate.requirement import parse
from sft_lightning.gate.scores import Collected, Scores
from sft_lightning.runs.load import load
from sft_lightning.tasks import make_task
from tests.refused import check_printed, refused

Gate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gate(capfd: pytest.CaptureFixture[str]) -> Gate:
    """`gate(candidate, …)` returns the exit code, and what was printed."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["gate", *map(str, arguments)])
        return code, *capfd.readouterr()

    return run


def test_it_passes_what_is_shown_and_exits_with_0(gate: Gate, runs: dict[str, Path]) -> None:
    required = [
        "--require",
        "retention/accuracy > +0",
        "--require",
        "val/accuracy >= -0.1",
        "--require",
        "val/loss <= +0.5",
    ]
    code, out, err = gate(runs["distill"], "--against", runs["plain"], *required)
    assert code == 0 and not err, err
    assert [line.split()[0] for line in out.splitlines() if not line.startswith(" ")] == [
        "pass",
        "pass",
        "pass",
        "gate",
    ]
    assert "exact McNemar" in out and "Tango" in out and "paired t-test" in out


def test_it_fails_what_is_shown_not_to_hold_and_exits_with_3(gate: Gate, runs: dict[str, Path], tmp_path: Path) -> None:
    files = {name: tmp_path / "made" / f"gate.{name}" for name in ("markdown", "html", "json")}
    flags = [part for name, path in files.items() for part in (f"--{name}", path)]
    required = ["--require", "retention/accuracy >= -0.01", "--require", "retention/f1_macro >= -0.9"]
    code, _, err = gate(runs["plain"], "--against", "start", *required, *flags)
    assert code == 3 and not err, err
    held = json.loads(files["json"].read_text())
    assert [r["verdict"] for r in held["requirements"]] == ["fail", "pass"] and held["verdict"] == "fail"
    first = held["requirements"][0]
    assert first["lost"] > first["gained"] and first["n"] == 169
    assert first["difference"] == pytest.approx((first["gained"] - first["lost"]) / first["n"])
    assert first["low"] < first["difference"] < first["high"] < -0.01
    assert "❌" in files["markdown"].read_text() and "retention/f1_macro" in files["markdown"].read_text()
    page = files["html"].read_text()
    assert (
        "1 of 2 requirements shown not to hold" in page
        and "http:" not in page
        and "https:" not in page
        and "src=" not in page
    ), "the page needs a network"


def test_it_says_how_many_samples_would_do_and_exits_with_4(gate: Gate, runs: dict[str, Path]) -> None:
    run = runs["plain"]
    code, out, _ = gate(run, "--against", run, "--require", "retention/accuracy >= -0.01")
    assert code == 4 and "169 samples" in out and "299 samples" in out, "equal answers of few samples passed"
    code, out, _ = gate(run, "--against", run, "--require", "retention/accuracy > +0")
    assert code == 4 and "no number of samples" in out


@pytest.mark.parametrize(
    ("arguments", "key", "values"),
    [
        (["--require", "val/accuracy >= -0.01"], "--against", ["base"]),
        (["--against", "start", "--require", "val/accuracy >= 0.5"], "--against", ["no effect"]),
        (["--against", "start"], "--require", ["METRIC"]),
        (["--against", "start", "--require", "val/accuracy >= -0.1"], "--against", ["start", "retention/"]),
        (["--against", "nowhere", "--require", "val/accuracy >= -0.1"], "nowhere", ["folder"]),
        (["--require", "val/accuracies >= 0.5"], "--require", ["accuracies", "accuracy"]),
        (["--require", "val/accuracy <= 0.5"], "--require", ["val/accuracy >= 0.5"]),
        (["--require", "val/accuracy >= 0.5", "--alpha", "0.5"], "--alpha", ["0.5"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    gate: Gate, runs: dict[str, Path], arguments: list[str], key: str, values: list[str]
) -> None:
    code, _, err = gate(runs["plain"], *arguments)
    assert code == 2
    check_printed(err, key, *values)


def test_a_base_of_other_samples_is_refused(gate: Gate, runs: dict[str, Path], tmp_path: Path) -> None:
    other = exported(runs["plain"], tmp_path / "other", {"val_fraction": 0.2})
    code, _, err = gate(runs["distill"], "--against", other, "--require", "val/accuracy >= -0.1")
    assert code == 2
    check_printed(err, "--against", "168", "134")
    relabelled = exported(runs["plain"], tmp_path / "relabelled", {"classes": [9, 8, 7, 6, 5]})
    code, _, err = gate(runs["distill"], "--against", relabelled, "--require", "val/accuracy >= -0.1")
    assert code == 2
    check_printed(err, "--against")


def test_the_numbers_are_those_of_run_json(runs: dict[str, Path]) -> None:
    run, model = load(runs["distill"]), open_model(str(runs["distill"]))
    for place, split in itertools.product((None, ""), ("val", "test")):
        for name, value in model.scores(place, split).values.items():
            metric = f"{'retention' if place == '' else split}/{name}"
            recorded = run.record["test"][metric] if split == "test" else run.metric(metric, "best")
            assert value == pytest.approx(recorded, abs=1e-6), f"{metric} on {split}"
    start = open_start(model).scores("", "val")
    assert start.values["accuracy"] == pytest.approx(run.metric("retention/accuracy", "before"))


def test_named_sets_are_asked_as_the_runs_measured_them(gate: Gate, runs: dict[str, Path], tmp_path: Path) -> None:
    run, model = load(runs["distill"]), open_model(str(runs["distill"]))
    for place, split in itertools.product(("noise", "more", "itself"), ("val", "test")):
        for name, value in model.scores(place, split).values.items():
            metric = f"retention/{place}/{name}"
            recorded = run.record["test"][metric] if split == "test" else run.metric(metric, "best")
            assert value == pytest.approx(recorded, abs=1e-6), f"{metric} on {split}"
    required = ["--require", "retention/more/accuracy > +0", "--require", "test/retention/noise/ece <= 0.9"]
    code, out, err = gate(runs["distill"], "--against", runs["plain"], *required)
    assert code == 0 and not err and "note" not in out, err
    assert model.scores("more", "val").n > model.scores("", "val").n
    code, _, err = gate(runs["distill"], "--require", "retention/mor/accuracy >= 0.1")
    assert code == 2
    check_printed(err, "--require", "'mor'")
    changed = exported(runs["plain"], tmp_path / "changed", {}, {"noise": {"corruption": "noise", "severity": 3}})
    code, _, err = gate(runs["distill"], "--against", changed, "--require", "retention/noise/accuracy >= -0.1")
    assert code == 2
    check_printed(err, "--against", "noise")


@pytest.mark.parametrize("metric", ["val/accuracy", "retention/accuracy", "test/accuracy", "test/retention/accuracy"])
def test_another_number_than_the_recorded_one_is_noted_and_one_far_off_is_refused(
    runs: dict[str, Path], metric: str
) -> None:
    model, requirement = open_model(str(runs["distill"])), parse(f"{metric} >= 0.5")
    assert decide(model, None, [requirement], 0.05)[0].note == ""
    held, name = model.record["test"], metric.replace("test/retention", "retention")
    if "test" not in metric:
        held, name = model.record["metrics"][metric], "best"
    held[name] -= 0.01
    assert "recorded" in decide(model, None, [requirement], 0.05)[0].note
    held[name] -= 0.1
    with refused(model.name, metric, "run.json"):
        decide(model, None, [requirement], 0.05)


def test_metrics_on_drawn_samples_are_those_of_an_evaluation_on_them(runs: dict[str, Path]) -> None:
    from sklearn.metrics import f1_score

    model = open_model(str(runs["plain"]))
    scores = model.scores(None, "val")
    batches = [model.data.receive(batch) for batch in model.data.loader("val", 0, 1)]
    said = np.concatenate([model.network(batch["x"]).logits.argmax(-1) for batch in batches])
    y = np.concatenate([batch["y"] for batch in batches])
    draws = np.random.default_rng(0).multinomial(scores.n, np.full(scores.n, 1 / scores.n), size=3).astype(float)
    for draw, found in zip(draws, scores.on_draws("f1_macro", draws), strict=True):
        assert found == pytest.approx(f1_score(y, said, average="macro", sample_weight=draw), abs=1e-6)
    assert scores.of_each("accuracy").mean() == pytest.approx(scores.values["accuracy"])


def test_samples_are_paired_by_row_in_whatever_order_they_come(runs: dict[str, Path]) -> None:
    model = open_model(str(runs["plain"]))
    task = make_task(model.network.task)
    batches = [model.data.receive(batch) for batch in model.data.loader("val", 0, 1)]
    one, other = (collected(model, task, part) for part in (batches, batches[::-1]))
    assert (one.rows == other.rows).all() and len(set(one.rows)) == one.n
    assert (one.of_each("accuracy") == other.of_each("accuracy")).all()


def collected(model: Any, task: Any, batches: list[Batch]) -> Scores:
    found = Collected(task, final=False)
    for batch in batches:
        output: Output = model.network(batch["x"], task.select(batch))
        assert found.take(batch, output)
    return found.scores()


def test_an_export_answers_as_its_run(gate: Gate, runs: dict[str, Path], tmp_path: Path) -> None:
    folder = exported(runs["distill"], tmp_path / "export", {})
    run, export = open_model(str(runs["distill"])), open_model(str(folder))
    for place in (None, ""):
        assert (run.scores(place, "val").of_each("loss") == export.scores(place, "val").of_each("loss")).all()
    code, out, _ = gate(folder, "--against", runs["distill"], "--require", "retention/accuracy >= -0.05")
    assert code == 0 and "0 lost, 0 gained" in out


def exported(run: Path, folder: Path, data: dict[str, Any], sets: dict[str, Any] | None = None) -> Path:
    """The run's export, without the comparison in a fresh process; `data` are other arguments of its data module, `sets` other
    named sets.
    """
    tuned = open_run(run)
    folder.mkdir()
    FORMATS["safetensors"]().write(tuned, folder, ("new", "source"), adapters=False)
    config = json.loads(json.dumps(tuned.config))
    config["data"]["init_args"] |= data
    config["retention_sets"] |= sets or {}
    (folder / CONFIG).write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.slow
def test_runs_that_extend_labels_are_gated_by_group(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    flags = ["--runs_dir", str(tmp_path), "--run_id", "one", "--wandb", "disabled", "--quiet", "true"]
    short = ["--trainer.max_epochs", "20", "--trainer.check_val_every_n_epoch", "20"]
    arms = {"kept": [], "naive": ["--data.rehearse", "0", "--model.init_args.anchor_weight", "0"]}
    for name, more in arms.items():
        fit = ["fit", "--config", "experiments/extend/digits.yaml", "--experiment", name, *flags, *short, *more]
        assert main(fit) == 0
    kept, naive = (tmp_path / name / "one" for name in arms)
    required = [
        "--require",
        "test/accuracy_old > +0.1",
        "--require",
        "test/harmonic > +0.1",
        "--require",
        "test/old_as_new < -0.1",
    ]
    code, out, err = gate(kept, "--against", naive, *required, "--json", tmp_path / "gate.json")
    assert code == 0, out + err
    held = {r["metric"]: r for r in json.loads((tmp_path / "gate.json").read_text())["requirements"]}
    mine, theirs = (load(place).record["test"] for place in (kept, naive))
    for metric, n in (("test/accuracy_old", 225), ("test/harmonic", 449), ("test/old_as_new", 225)):
        assert held[metric]["n"] == n
        assert held[metric]["difference"] == pytest.approx(mine[metric] - theirs[metric], abs=1e-6)
