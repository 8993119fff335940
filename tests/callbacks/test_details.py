"""`details.json` against scikit-learn, and against passes of the networks that share nothing with the run but its weights."""

import base64
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from PIL import Image
from sklearn.metrics import confusion_matrix
from torch import Tensor

from sft_lightning.callbacks import Details, RetentionMonitor
from sft_lightning.callbacks.error_analysis import finite_or_none, layer_drift
from sft_lightning.callbacks.shown_samples import LETTERS, data_uri, excerpt, seen, short
from sft_lightning.cli.main import main
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.sampler import Key
from sft_lightning.data.text import TextRows
from sft_lightning.evaluation.predictions import Answers
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import spec
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import build_network
from sft_lightning.runs import Run, load
from tests.cli.conftest import ROOT, Command, command  # noqa: F401  a fixture
from tests.cli.test_matrix import image_folder, instructions, regression
from tests.data.text_files import texts, write_jsonl
from tests.data.vision_files import write_folder
from tests.networks.tiny import tiny_folder
from tests.support import NEW, OLD, NormNet, digits, fit, make, outputs_on, pretrained_mlp, quiet_trainer, weights

PLAIN = ("fit", "--config", "experiments/digits/plain.yaml", "--wandb", "disabled", "--run_id", "run")


def strictly(path: Path) -> dict[str, Any]:
    """A file's content, which must be JSON as the standard has it."""

    def refuse(constant: str) -> float:
        raise AssertionError(f"{path.name} holds {constant}, which is no JSON")

    content: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return content


def picture(uri: str) -> np.ndarray:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))


def networks(run: Run, outputs: int, labels: list[str]) -> tuple[Network, Network]:
    """(the pretrained network, the network of best.ckpt), built and filled here."""
    info, held = TaskInfo("classification", outputs, labels), torch.load(run.files.best, weights_only=True)
    before, after = (build_network(run.config["network"], info).eval() for _ in range(2))
    after.load_state_dict({n.removeprefix("network."): v for n, v in held["state_dict"].items() if "network." in n})
    return before, after


def answers(logits: Tensor) -> tuple[np.ndarray, np.ndarray]:
    probabilities = logits.double().softmax(1).numpy()
    return probabilities.argmax(1), probabilities.max(1)


# ---- through the command line ----


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("details")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(ROOT)
        patched.setenv("SFT_RUNS_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def tested(runs: Path) -> Run:
    """Tuned without an anchor, so that it forgets; tested after fit, on best.ckpt, which is not the last."""
    assert main([*PLAIN, "--experiment", "tested", "--select_by", "retention/accuracy"]) == 0
    assert main(["predict", "--run", str(runs / "tested" / "run")]) == 0
    return load(runs / "tested" / "run")


@pytest.fixture(scope="module")
def details(tested: Run) -> dict[str, Any]:
    return strictly(tested.files.details)


def test_it_names_the_split_and_the_step_of_the_weights_that_were_tested(tested: Run, details: dict[str, Any]) -> None:
    assert (details["schema"], details["split"]) == (1, "test")
    assert details["step"] == tested.record["selected"]["step"] < tested.record["steps"]


def test_confusions_are_scikit_learns_on_the_predictions(tested: Run, details: dict[str, Any]) -> None:
    rows = [json.loads(line) for line in tested.files.predictions.read_text().splitlines()]
    data = digits(NEW)
    data.setup()
    split = data.splits["test"]
    assert [r["index"] for r in rows] == split.rows.tolist()
    labels = [str(d) for d in NEW]
    true = [labels[t] for t in split.targets]
    expected = confusion_matrix(true, [r["label"] for r in rows], labels=labels)
    assert details["confusion"] == {"labels": labels, "counts": expected.tolist()}
    said_right = np.trace(expected) / expected.sum()
    assert said_right == pytest.approx(tested.record["test"]["test/accuracy"])


def test_source_confusions_and_changed_samples_are_those_of_independent_passes(
    tested: Run, details: dict[str, Any]
) -> None:
    source = digits(OLD)
    source.setup()
    split, labels = source.splits["test"], [str(d) for d in OLD]
    said = []
    for network in networks(tested, 5, [str(d) for d in NEW]):
        output, y = outputs_on(network, source, "test")
        said.append(answers(output.source_logits))
    (before, sure_before), (after, sure_after) = said
    assert details["source_confusion"] == {
        "labels": labels,
        "before": confusion_matrix(y, before, labels=range(5)).tolist(),
        "after": confusion_matrix(y, after, labels=range(5)).tolist(),
    }
    at = np.flatnonzero((before == y.numpy()) & (after != y.numpy()))
    assert len(at) >= 5, "too little was forgotten for this to be a test"
    assert (details["changed_total"], details["compared"]) == (len(at), 225)
    held, gained = details["lost_and_gained"], int(((before != y.numpy()) & (after == y.numpy())).sum())
    assert (held["lost"], held["gained"], held["n"]) == (len(at), gained, 225)
    assert held["change"] == pytest.approx(-tested.record["test"]["retention/forgetting"], abs=1e-5)
    at = at[np.argsort(-sure_after[at])]
    assert [c["row"] for c in details["changed"]] == split.rows[at].tolist(), "not the most confident first"
    for entry, i in zip(details["changed"], at, strict=True):
        assert entry["on"] == "retention" and entry["name"] == f"sample {entry['row']}"
        assert entry["label"] == entry["before"] == labels[y[i]]
        assert entry["after"] == labels[after[i]]
        assert entry["confidence_before"] == pytest.approx(sure_before[i], abs=2e-6)
        assert entry["confidence_after"] == pytest.approx(sure_after[i], abs=2e-6)


def test_a_changed_samples_picture_is_the_sample_magnified(details: dict[str, Any]) -> None:
    source = digits(OLD)
    source.setup()
    for entry in details["changed"]:
        stored = source.splits["test"].samples.images[entry["row"]][0].numpy()
        shown = picture(entry["image"])
        assert shown.shape == (96, 96)
        assert (shown == stored.repeat(12, 0).repeat(12, 1)).all(), f"{entry['name']} is shown as another"


def test_layer_drift_is_that_of_the_weights_on_disk(tested: Run, details: dict[str, Any]) -> None:
    before, after = (dict(n.named_parameters()) for n in networks(tested, 5, [str(d) for d in NEW]))
    assert [entry["name"] for entry in details["layers"]] == ["encoder.1", "encoder.4"]
    total = 0.0
    for entry in details["layers"]:
        names = [f"{entry['name']}.{part}" for part in ("weight", "bias")]
        start = np.concatenate([before[n].detach().double().flatten() for n in names])
        moved = np.linalg.norm(np.concatenate([after[n].detach().double().flatten() for n in names]) - start)
        assert entry["l2"] == pytest.approx(moved, rel=1e-4) and moved > 0
        assert entry["relative"] == pytest.approx(moved / np.linalg.norm(start), rel=1e-4)
        total += moved**2
    assert np.sqrt(total) == pytest.approx(tested.record["test"]["drift/weights_l2"], rel=1e-4)


def test_nothing_is_written_by_a_fit_without_a_test_and_val_by_validate(runs: Path) -> None:
    arguments = (*PLAIN, "--experiment", "fitted", "--test_after_fit", "false", "--trainer.max_epochs")
    assert main([*arguments, "25"]) == 0  # ends between two validations: it is measured once more
    run = load(runs / "fitted" / "run")
    assert not run.files.details.exists()
    assert main(["validate", "--run", str(run.path), "--wandb", "disabled"]) == 0
    found, run = strictly(run.files.details), load(run.path)
    assert (found["split"], found["compared"]) == ("val", 169)
    for which, name in (("confusion", "val/accuracy"), ("source_confusion", "retention/accuracy")):
        counts = np.array(found[which].get("counts", found[which].get("after")))
        assert np.trace(counts) / counts.sum() == pytest.approx(run.record["validate"][name])
    gone = np.trace(found["source_confusion"]["before"]) - np.trace(found["source_confusion"]["after"])
    assert gone / found["compared"] == pytest.approx(run.record["validate"]["retention/forgetting"], abs=1e-6)

    assert main(["fit", "--resume", str(run.path), "--trainer.max_epochs", "30"]) == 0
    assert not run.files.details.exists(), "what was measured on an earlier checkpoint is still there"


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tested: Run, details: dict[str, Any]) -> None:
    test = [sys.executable, "-m", "sft_lightning", "test", "--run", str(tested.path), "--wandb", "disabled"]
    split = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    kept = tested.files.details.read_text()
    tested.files.details.unlink()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*test, *split], env=environment, capture_output=True, text=True, timeout=240)
    try:
        assert done.returncode == 0, done.stderr
        together = strictly(tested.files.details)
    finally:
        tested.files.details.write_text(kept)
    alone = json.loads(kept)
    for one, two in zip([*alone.pop("changed"), *alone.pop("layers")], [*together.pop("changed"), *together.pop("layers")],
                        strict=True):  # fmt: skip
        assert two == {k: pytest.approx(v, abs=2e-5) if isinstance(v, float) else v for k, v in one.items()}
    assert together == alone


def run_of(content: dict[str, Any], command: Command, tmp_path: Path) -> Run:  # noqa: F811
    content = {"model": {"class_path": "PlainSFT", "init_args": {"lr": 0.05}}, "trainer": {"max_epochs": 2}, **content}
    content["data"]["init_args"] = {"batch_size": 8, **content["data"]["init_args"]}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(content))
    done = command("fit", "--config", tmp_path / "experiment.yaml", "--wandb", "disabled", "--test_after_fit", "true")
    assert done.code == 0, done.err
    return done.run


HOSTILE = [
    "</script><script>alert('1')</script>",
    '{{ config }} ${7*7} <img src=x onerror="alert(2)">',
    "\u202eturned about\u202c \u2028 two lines\nand a tab\t \\ \" '",
    "=cmd|' /C calc'!A0 \x1b[31mred\x1b[0m \x00 ends",
]


def test_texts_are_kept_as_they_are_whatever_they_hold(command: Command, tmp_path: Path) -> None:  # noqa: F811
    """The source labels are what the pretrained model says, so that whatever it says now is forgotten."""
    folder = tiny_folder(tmp_path / "bert", "distilbert", "sequence")
    info, network = TaskInfo("classification", 2), spec("TransformersText", pretrained=folder)
    held = [f"{t} {i}" for i, t in enumerate(HOSTILE * 6)]

    def labels(network: Network) -> list[int]:
        rows = TextRows(held)
        rows.use(network.input_spec.tokenizer, 64)
        x = rows.fetch(range(len(held)), [Key(0, 0)], False)
        with torch.no_grad():
            said: list[int] = network.eval()(x).source_logits.argmax(1).tolist()
        return said

    true = labels(build_network(network, info))
    rows = [{"text": t, "label": f"old{n}"} for t, n in zip(held, true, strict=True)]
    source = write_jsonl(tmp_path / "source.jsonl", rows)
    target = write_jsonl(tmp_path / "new.jsonl", [{"text": t, "label": i % 2} for i, t in enumerate(texts(32))])
    run = run_of(
        {
            "network": network,
            "data": {"class_path": "TextTable", "init_args": {"train": target, "test": target}},
            "retention": {
                "class_path": "TextTable",
                "init_args": {"train": source, "test": source, "labels": ["old0", "old1", "old2"]},
            },
        },
        command,
        tmp_path,
    )
    found = strictly(run.files.details)
    tuned = build_network(network, info)
    state = torch.load(run.files.best, weights_only=True)["state_dict"]
    tuned.load_state_dict({n.removeprefix("network."): v for n, v in state.items() if n.startswith("network.")})
    now = labels(tuned)
    gone = {i: (f"old{a}", f"old{b}") for i, (a, b) in enumerate(zip(true, now, strict=True)) if a != b}
    assert len(gone) >= 4, "too little was forgotten for this to be a test"
    assert {c["row"]: (c["before"], c["after"]) for c in found["changed"]} == gone
    for entry in found["changed"]:
        assert entry["text"] == held[entry["row"]]
        assert entry["name"] == f"{tmp_path.name}/source.jsonl line {entry['row'] + 1}"
    assert found["source_confusion"]["before"] == confusion_matrix(true, true, labels=range(3)).tolist()
    assert found["source_confusion"]["after"] == confusion_matrix(true, now, labels=range(3)).tolist()


def test_a_language_model_has_layers_alone(command: Command, tmp_path: Path) -> None:  # noqa: F811
    found = strictly(run_of(instructions(command, tmp_path), command, tmp_path).files.details)
    assert found.keys() == {"schema", "split", "step", "layers"}
    assert len(found["layers"]) >= 3 and all(entry["l2"] > 0 for entry in found["layers"])


def test_a_regression_has_no_confusion_and_asks_the_source_head(command: Command, tmp_path: Path) -> None:  # noqa: F811
    content = regression(command, tmp_path)
    content["network"]["init_args"] = {"pretrained": content["network"]["init_args"]["pretrained"]}
    found = strictly(run_of(content, command, tmp_path).files.details)
    assert not {"confusion", "source_confusion"} & found.keys()
    assert found["compared"] == 9 and found["layers"]
    for entry in found["changed"]:
        first, second = entry["text"].split("\n")
        assert second == first[::-1], "both texts of a pair are shown"


def test_samples_that_cannot_be_read_are_not_there(command: Command, tmp_path: Path) -> None:  # noqa: F811
    for split, count in (("train", 8), ("val", 4), ("test", 5)):
        write_folder(tmp_path / "data" / split, {"ant": count, "bee": count})
    (tmp_path / "data" / "test" / "bee" / "0.png").write_text("no image")
    arguments = {"root": str(tmp_path / "data"), "on_bad_sample": "skip"}
    data = {"class_path": "ImageFolder", "init_args": arguments}
    network = {"class_path": "LeNet", "init_args": {"image_size": 16}}
    found = strictly(run_of({"network": network, "data": data}, command, tmp_path).files.details)
    assert np.sum(found["confusion"]["counts"], axis=1).tolist() == [5, 4]
    assert found["layers"] == [] and "changed" not in found, "a net from scratch came from nowhere and forgets nothing"


def test_where_files_lie_on_the_machine_is_not_told(command: Command, tmp_path: Path) -> None:  # noqa: F811
    content = image_folder(command, tmp_path)
    content["retention"]["init_args"] |= {"root": str(tmp_path / "old")}
    text = run_of(content, command, tmp_path).files.details.read_text()
    assert str(tmp_path) not in text
    assert short(f"{tmp_path}/old/ant/3.png") == "ant/3.png"
    assert short("train.csv line 7") == "train.csv line 7"


# ---- from Python ----


class States(Callback):
    """The random generators' states after each validation and test."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_validation_end(self, *_: Any) -> None:
        self.seen.append((random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))

    on_test_end = on_validation_end


@pytest.mark.one_in(3)
@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("with_source", [True, False], ids=["retention data", "none"])
def test_metrics_weights_and_random_numbers_are_the_same_bits_without_it(
    pretrained_norms: str, tmp_path: Path, split: str, with_source: bool
) -> None:
    """Trained, validated, tested, and trained on, with dropout and BatchNorm: nothing tells that it was there."""
    results = []
    for with_details in (False, True):
        random.seed(0)
        np.random.seed(0)
        states = States()
        module = PlainSFT(spec(NormNet, pretrained=pretrained_norms, dropout=0.3), lr=1e-2)
        watch = RetentionMonitor(digits(OLD, eval_batch_size=7) if with_source else None)
        details = [Details(tmp_path / "details.json", split, monitor=watch)] if with_details else []  # type: ignore[arg-type]
        data, measured = digits(eval_batch_size=7), []
        trainer = fit(module, data, max_epochs=2, callbacks=[watch, *details, states])
        measured += trainer.validate(module, data, verbose=False) + trainer.test(module, data, verbose=False)
        measured += trainer.validate(module, data, verbose=False) + trainer.test(module, data, verbose=False)
        if details:
            assert (tmp_path / "details.json").is_file()
        trainer.fit_loop.max_epochs = 3
        trainer.fit(module, datamodule=data)
        measured.append({k: float(v) for k, v in trainer.callback_metrics.items()})
        results.append((measured, states.seen, weights(module)))
    (metrics, states_without, kept), (others, states_with, others_kept) = results
    assert metrics == others, "a metric depends on it"
    assert states_without == states_with, "it took a random number"
    changed = [n for n in kept if not torch.equal(kept[n], others_kept[n])]
    assert not changed, f"{changed} depend on it"
    assert not (tmp_path / "details.json").exists(), "training went on, and what was measured before it is still there"


def test_nothing_is_collected_while_fitting(pretrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("answers were collected in a fit")

    monkeypatch.setattr(Answers, "add", fail)
    for split in ("test", "val"):
        watch = RetentionMonitor(digits(OLD))
        details = Details(tmp_path / "d.json", split, monitor=watch)  # type: ignore[arg-type]
        fit(make("plain", pretrained), digits(), max_epochs=1, callbacks=[watch, details])
    assert not list(tmp_path.iterdir())


def test_without_source_data_the_source_head_is_asked_about_the_targets_samples(
    pretrained: str, tmp_path: Path
) -> None:
    module, data = make("plain", pretrained, lr=1e-2), digits(eval_batch_size=7)
    fit(module, data, max_epochs=2)
    watch = RetentionMonitor()
    tester = quiet_trainer(callbacks=[watch, Details(tmp_path / "details.json", samples=5, monitor=watch)])
    tester.test(module, data, verbose=False)
    found = strictly(tmp_path / "details.json")
    said = [answers(outputs_on(n, data, "test")[0].source_logits) for n in (module.teacher.network, module.network)]
    (before, _), (after, sure) = said
    at = np.flatnonzero(before != after)
    assert (found["changed_total"], found["compared"]) == (len(at), len(before)) and len(at) > 5
    listed = at[np.argsort(-sure[at])][:5]
    assert [c["row"] for c in found["changed"]] == data.splits["test"].rows[listed].tolist()
    for entry, i in zip(found["changed"], listed, strict=True):
        assert entry["on"] == "source_head" and "label" not in entry and "image" in entry
        assert (entry["before"], entry["after"]) == (str(OLD[before[i]]), str(OLD[after[i]]))
    assert "source_confusion" not in found


def test_confusions_of_more_classes_than_can_be_read_are_left_out(pretrained: str, tmp_path: Path) -> None:
    module, data = make("plain", pretrained, lr=1e-2), digits()
    fit(module, data, max_epochs=1)
    watch = RetentionMonitor(digits(OLD))
    quiet_trainer(callbacks=[watch, Details(tmp_path / "d.json", classes=4, monitor=watch)]).test(
        module, data, verbose=False
    )
    found = strictly(tmp_path / "d.json")
    assert not {"confusion", "source_confusion"} & found.keys()
    assert found["compared"] == 225 and found["changed"]


def test_a_network_whose_outputs_are_no_numbers_still_makes_json(pretrained: str, tmp_path: Path) -> None:
    module, data = make("plain", pretrained), digits()
    fit(module, data, max_steps=1)
    with torch.no_grad():
        next(module.network.encoder.parameters()).fill_(float("nan"))
    watch = RetentionMonitor(digits(OLD))
    quiet_trainer(callbacks=[watch, Details(tmp_path / "d.json", monitor=watch)]).test(module, data, verbose=False)
    found = strictly(tmp_path / "d.json")
    assert found["layers"][0]["relative"] is None and found["layers"][1]["relative"] >= 0
    assert {c["confidence_after"] for c in found["changed"]} == {None}
    assert len(found["changed"]) == 24 and found["changed_total"] > 100


def test_a_layer_that_began_at_zero_has_no_relative_drift(pretrained: str) -> None:
    module = PlainSFT(pretrained_mlp(pretrained))
    fit(module, digits(), max_steps=1)
    for name, start in module.teacher.initial.items():
        if name.startswith("encoder.4"):
            start.zero_()
    first, second = layer_drift(module)
    assert first["relative"] > 0 and second["relative"] is None and second["l2"] > 0
    with torch.no_grad():
        for name, parameter in module.network.named_parameters():
            if name.startswith("encoder.4"):
                parameter.zero_()
    assert layer_drift(module)[1] == {"name": "encoder.4", "relative": 0.0, "l2": 0.0}
    assert finite_or_none(float("inf")) is None


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((1, 8, 8), (96, 96)),
        ((3, 28, 28), (84, 84, 3)),
        ((3, 5, 40), (10, 80, 3)),
        ((2, 64, 64), (64, 64)),
        ((3, 300, 150), (96, 48, 3)),
        ((1, 1, 4000), (1, 96)),
    ],
)
def test_pictures_are_made_visible_and_kept_small(shape: tuple[int, ...], shown: tuple[int, ...]) -> None:
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = picture(data_uri(image))
    assert found.shape == shown
    times = shown[0] // shape[1]
    if times >= 1 and shown[1] == shape[2] * times:
        smaller = found[::times, ::times]
        assert (smaller == image[: 3 if shape[0] == 3 else 1].permute(1, 2, 0).squeeze(-1).numpy()).all()


def test_texts_are_cut_and_always_characters() -> None:
    assert excerpt("x" * LETTERS) == "x" * LETTERS
    assert excerpt("x" * (LETTERS + 1)) == "x" * (LETTERS - 1) + "…"
    assert len(excerpt("\ud800" * 1000)) == LETTERS
    assert excerpt("half a pair \ud83d").encode() == b"half a pair \\ud83d"
    assert seen(TextRows(["one"], ["two"]), 0) == {"text": "one\ntwo"}
