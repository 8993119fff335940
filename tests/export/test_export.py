"""`export` as a user types it: the folder, its README, what it refuses, and what it leaves behind."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sft_lightning.cli.main import main
from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import TaskInfo
from sft_lightning.export import FORMATS, card, load_export, writing
from sft_lightning.export.parity import Case, compare
from sft_lightning.export.study_place import place_of
from sft_lightning.export.tuned import Tuned
from sft_lightning.networks import TransformersCTC, TransformersSpeech
from tests.export import cases
from tests.export.cases import CaseOf
from tests.networks.tiny_audio import tiny_ctc, tiny_whisper
from tests.refused import check_printed, refused

ROOT = Path(__file__).parents[2]
BERT, TIMM, MLP, LORA = (f"classification-{name}" for name in ("bert", "timm", "mlp", "lora"))


@pytest.fixture
def parity_done(few: dict[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons with the results of the fresh process that other tests started: another process would take seconds."""
    found = {case.format: compare(case) for case in few.values()}
    monkeypatch.setattr(writing, "compared", lambda tuned, made, *_: {"format": made.name, **found[made.name]})


@pytest.fixture
def exported(
    tuned: Callable[[str], Tuned], parity_done: None, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Path]:
    """`exported(name, …)`: the folder that `export` of a case's run makes."""

    def export(name: str, to: Path, *options: object) -> Path:
        code = main(["export", str(tuned(name).run.path), "--to", str(to), *map(str, options)])
        assert code == 0, capsys.readouterr().err
        return to

    return export


def code_of(folder: Path) -> list[str]:
    """The Python blocks of a README, in order."""
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)


@torch.no_grad()
def test_a_run_with_new_labels_beside_old_ones_exports_its_tuned_old_rows_as_source_head(
    tuned: Callable[[str], Tuned], exported: Any, tmp_path: Path
) -> None:
    network = load_export(exported("classification-mlp-extended", tmp_path / "extended"))
    assert network.task.num_outputs == 7 and network.source_labels == ["0", "1", "2", "3", "4"]
    said = network.eval()({"image": torch.rand(4, 1, 8, 8)})
    torch.testing.assert_close(said.source_logits, said.logits[:, :5])


@torch.no_grad()
@pytest.mark.slow
def test_the_readme_alone_repeats_a_prediction_of_both_heads_of_a_text(
    tuned: Callable[[str], Tuned], exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported(BERT, tmp_path / "bert")
    monkeypatch.chdir(folder)
    assert not any("sft_lightning" in block for block in code_of(folder))
    here: dict[str, Any] = {}
    load, swap = code_of(folder)
    exec(load, here)
    text, network = "Is this one of 3 texts?", tuned(BERT).network
    made = network.tokenizer([text], return_tensors="pt")  # type: ignore[operator]
    x = {name: made[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    ours = network(x)
    np.testing.assert_allclose(here["predict"](text), ours.logits[0], atol=1e-5)
    exec(swap, here)
    np.testing.assert_allclose(here["predict"](text), ours.source_logits[0], atol=1e-5)
    assert here["model"].config.id2label == {0: "old0", 1: "old1", 2: "old2"}


@torch.no_grad()
def test_a_pipeline_says_the_runs_labels(tuned: Callable[[str], Tuned], exported: Any, tmp_path: Path) -> None:
    from transformers import pipeline

    said = pipeline("text-classification", model=str(exported(BERT, tmp_path / "bert")))(["A text."], top_k=None)[0]
    assert {row["label"] for row in said} == set(tuned(BERT).network.task.labels)


@torch.no_grad()
def test_the_readme_of_a_timm_folder_repeats_a_prediction_of_an_image(
    tuned: Callable[[str], Tuned], exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    folder = exported(TIMM, tmp_path / "timm")
    monkeypatch.chdir(folder)
    here: dict[str, Any] = {}
    for block in code_of(folder)[:1]:
        exec(block, here)
    run = tuned(TIMM)
    batch = run.data.receive(run.data.splits["val"][0])
    pixels = run.data.splits["val"].samples.raw(int(batch["index"][0]))["image"]
    ours = run.network(batch["x"]).logits[0]
    np.testing.assert_allclose(here["predict"](Image.fromarray(pixels[0].numpy())), ours, atol=1e-5)


def test_the_card_is_valid_for_the_hub_and_says_what_was_learned_and_kept(
    tuned: Callable[[str], Tuned], exported: Any, tmp_path: Path
) -> None:
    from huggingface_hub import ModelCard

    folder = exported(MLP, tmp_path / "mlp")
    page, record = (folder / "README.md").read_text(), tuned(MLP).run.record
    held = ModelCard.load(folder / "README.md").data
    results = {result.metric_name: result for result in held.eval_results}
    measured = [(name, metric) for name in ("learned", "kept") for metric in ("accuracy", "f1_macro")]
    assert set(results) == {f"{metric} ({name})" for name, metric in measured}
    for name, metric in measured:
        split, n = ("val", "val") if name == "learned" else ("retention", "retention")
        result = results[f"{metric} ({name})"]
        assert result.metric_value == pytest.approx(record["metrics"][f"{split}/{metric}"]["best"], abs=1e-6)
        assert result.dataset_args == {"n": record["n"][n]}
    for told in (
        record["data"]["fingerprint"]["val"],
        record["retention"]["fingerprint"]["val"],
        "majority share",
        "given by hand",
        "One seed",
        "fit --config",
        "not tested",
    ):
        assert told in page, f"the card does not say '{told}'"
    assert (folder / "training_config.yaml").is_file()


@torch.no_grad()
def test_our_own_folder_loads_both_heads_to_the_bit(
    tuned: Callable[[str], Tuned], exported: Any, tmp_path: Path
) -> None:
    network, ours = load_export(exported(MLP, tmp_path / "mlp")), tuned(MLP).network
    x = {"image": torch.rand(3, 1, 8, 8)}
    for one, other in zip(network(x)[:3], ours(x)[:3], strict=True):
        assert torch.equal(one, other)
    assert network.source_labels == ours.source_labels == ["0", "1", "2", "3", "4"]


def test_one_head_alone_leaves_no_file_of_the_source_head(exported: Any, tmp_path: Path) -> None:
    folder = exported(BERT, tmp_path / "new", "--heads", "new")
    assert not list(folder.glob("source_head*"))
    assert len(code_of(folder)) == 1


def test_export_says_how_its_answers_compare(exported: Any, tmp_path: Path, tuned: Any, capsys: Any) -> None:
    exported(BERT, tmp_path / "bert", "--heads", "both")
    out = capsys.readouterr().out
    for told in ("export  ", "both heads", "new head: largest difference", "100% of decisions equal", "fresh process"):
        assert told in out
    assert json.loads((tmp_path / "bert" / "parity.json").read_text())["format"] == "transformers"


def test_an_export_that_answers_otherwise_leaves_no_folder(
    tuned: Callable[[str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*_: object) -> None:
        raise UserError("--format", "timm: the export decides 1 of 64 samples differently")

    monkeypatch.setattr(writing, "compared", wrong)
    assert main(["export", str(tuned(TIMM).run.path), "--to", str(tmp_path / "made" / "timm")]) == 2
    check_printed(capsys.readouterr().err, "--format", "1 of 64 samples")
    assert not list((tmp_path / "made").iterdir()), "something half-written is left"


def test_what_cannot_be_exported_is_refused_with_the_reason(
    tuned: Callable[[str], Tuned], tmp_path: Path, root: Path
) -> None:
    run = tuned(MLP).run.path
    with refused("--format", "did you mean 'timm'"):
        writing.export_run(run, tmp_path / "a", "tim")
    for name in ("timm", "transformers"):
        with refused("--format", "MLP is not a network of"):
            writing.export_run(run, tmp_path / "a", name)
    with refused("--merge-adapters", "no effect"):
        writing.export_run(run, tmp_path / "a", merge_adapters=True)
    (tmp_path / "there").mkdir()
    with refused("--to", "exists already"):
        writing.export_run(run, tmp_path / "there")
    with refused(tmp_path, "is not a run directory"):
        writing.export_run(tmp_path, tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]


def test_a_network_that_writes_frame_by_frame_is_not_said_to_generate(tmp_path: Path) -> None:
    ctc = TransformersCTC(TaskInfo("ctc", 0), pretrained=tiny_ctc(tmp_path / "ctc"))
    assert FORMATS["onnx"]().why_not(ctc) == "inputs of kind speech are not supported yet"
    whisper = TransformersSpeech(TaskInfo("seq2seq", 0), pretrained=tiny_whisper(tmp_path / "whisper"))
    assert "token by token" in FORMATS["onnx"]().why_not(whisper)


def test_an_unfinished_run_and_one_without_weights_are_refused(tuned: Any, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(tuned(MLP).run.path, copy)
    shutil.rmtree(copy / "model")
    with refused(copy, "keep_weights", "config.yaml"):
        writing.export_run(copy)
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    with refused(copy, "interrupted", "--resume"):
        writing.export_run(copy)


def test_a_model_folder_with_other_weights_than_the_checkpoint_is_refused(tuned: Any, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "run"
    shutil.copytree(tuned(MLP).run.path, copy)
    file = copy / "model" / "model.safetensors"
    state = load_file(file)
    state["head.bias"] = state["head.bias"] + 1e-3
    save_file(state, file, metadata={"format": "pt"})
    with refused(copy / "model", "head.bias"):
        writing.export_run(copy)


def test_the_help_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in FORMATS)


def test_a_run_of_a_study_says_its_arm_how_it_was_chosen_and_the_spread_over_seeds() -> None:
    place = place_of(ROOT / "tests" / "compat" / "before" / "small-study" / "b99bbfae0524")
    assert place is not None and (place.study, place.arm) == ("small-study", "plain")
    assert place.setting == {"shots_per_class": "4", "lr": "0.01"}
    assert place.why.startswith("of 1 settings within 0.01")
    assert place.spread("test/accuracy") == "0.6295 ± 0.0694 (mean ± standard deviation of 2 seeds)"
    assert place.spread("no/metric") == ""
    assert place_of(ROOT / "tests" / "compat" / "before" / "digits-plain" / "before") is None


def test_the_card_says_that_a_study_had_not_ended(tuned: Any, tmp_path: Path) -> None:
    before = ROOT / "tests" / "compat" / "before" / "small-study"
    study = json.loads((before / "study.json").read_text())
    (tmp_path / "points.csv").write_bytes((before / "points.csv").read_bytes())
    (tmp_path / "study.json").write_text(
        json.dumps(study | {"status": "running", "points": {"total": 6, "finished": 4}})
    )
    said = list(card.limits(tuned(MLP), place_of(tmp_path / "b99bbfae0524")))
    assert "- Its study had not ended: 4 of 6 runs are finished, so that choices and spread may change." in said
    assert not any("had not ended" in line for line in card.limits(tuned(MLP), place_of(before / "b99bbfae0524")))


def test_the_card_says_which_source_classes_lost_most(tuned: Any) -> None:
    from dataclasses import replace

    from sft_lightning.runs.load import load

    run = load(ROOT / "tests" / "compat" / "before" / "digits-distill" / "before")
    said = list(card.forgotten(replace(tuned(MLP), run=run)))
    assert said == ["Change of recall of the source classes that lost most (test): 4 -0.022 (n = 45).\n"]
    held = {
        "n": 9,
        "lost": 2,
        "gained": 1,
        "classes": [{"label": "b", "change": -0.5, "low": -0.9, "high": 0.2, "n": 4}],
    }
    counted = card.lost_lines({"split": "test", "lost_and_gained": held})
    assert counted[0] == "Of 9 source samples (test), 2 were lost and 1 gained.\n"
    held["beyond_guesses"] = {"lost": 1.5, "gained": 0.0}
    counted = card.lost_lines({"split": "test", "lost_and_gained": held})
    assert counted[0].endswith("1 gained (about 1.5 and 0 beyond lucky guesses).\n")
    assert "b -0.500 [-0.900, 0.200] (n = 4)" in counted[1]


def test_an_adapter_is_merged_and_written_alone_too_unless_asked_otherwise(
    tuned: Callable[[str], Tuned], exported: Any, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    whole, merged = exported(LORA, tmp_path / "a"), exported(LORA, tmp_path / "b", "--merge-adapters")
    assert (whole / "adapter" / "adapter_model.safetensors").is_file() and not (merged / "adapter").exists()
    one, other = (load_file(folder / "model.safetensors") for folder in (whole, merged))
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
    assert not any("lora" in name for name in one)
    started = load_file(next((tuned(LORA).run.path.parents[2] / LORA).glob("bert/model.safetensors")))
    moved = [n for n in one if n in started and n.endswith("query.weight") and not torch.equal(one[n], started[n])]
    assert moved, "the adapter is not in the weights"


OWN = """from torch import nn
from sft_lightning.networks import MLP

class Scaled(MLP):
    def __init__(self, task, scale: float = 1.0, pretrained: str | None = None):
        super().__init__(task, in_features=64, hidden=[8], pretrained=pretrained)
        self.scale = scale
    def encode(self, x):
        return super().encode(x) * self.scale
    def export_config(self):
        return {RETURNED}
"""


@pytest.mark.parametrize("kept", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_network_of_the_users_own_module_is_exported_unless_its_folder_lacks_an_argument(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sides of a comparison come from that folder, so the run's own network with best.ckpt must be asked too."""
    name = f"own_network_{kept}"
    (tmp_path / f"{name}.py").write_text(OWN.replace("RETURNED", '"scale": self.scale' if kept else ""))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        cases, "CASES", {name: CaseOf("Digits", f"{name}.Scaled", lambda _: {"scale": 3.0}, "safetensors")}
    )
    run = cases.make_run(name, tmp_path)
    if kept:
        made = writing.export_run(run)
        assert made.parity["heads"]["new"]["largest_difference"] == 0.0
        assert f"module `{name}`" in (made.folder / "README.md").read_text()
    else:
        with refused(run / "model", "best.ckpt", "Scaled.export_config"):
            writing.export_run(run)
        assert not list((run / "export").iterdir())


def test_a_model_folder_with_other_labels_than_the_run_is_refused(tuned: Any, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(tuned(MLP).run.path, copy)
    for file, told, change in (
        ("source_head.json", "labels of the source head", lambda held: held["labels"].reverse()),
        ("config.json", "other labels", lambda held: held["sft_lightning"]["task"]["labels"].reverse()),
    ):
        before = (copy / "model" / file).read_text()
        held = json.loads(before)
        change(held)
        (copy / "model" / file).write_text(json.dumps(held))
        with refused(copy / "model", told):
            writing.export_run(copy)
        (copy / "model" / file).write_text(before)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tuned: Any, parity_done: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_card", full)
    with refused("--to", "No space left on device"):
        writing.export_run(tuned(MLP).run.path, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_the_card_leaves_out_numbers_whose_n_the_run_does_not_say(tuned: Any) -> None:
    from dataclasses import replace

    one = tuned(MLP)
    bare = replace(one, run=replace(one.run, record={**one.run.record, "n": {"retention": 9}}))
    rows = [(row["what"], row["metric"], row["n"]) for row in card.columns(bare, None)]
    assert rows == [("kept", "accuracy", 9), ("kept", "f1_macro", 9)]


def test_the_card_of_a_network_that_writes_texts_shows_their_scores_first_each_with_its_own_n(tuned: Any) -> None:
    from dataclasses import replace

    from sft_lightning.tasks import make_task

    one = tuned(MLP)
    task = make_task(TaskInfo("seq2seq", 9, metrics=["perplexity", "token_accuracy", "wer", "cer"]))
    values = {"perplexity": 3.0, "token_accuracy": 0.5, "wer": 0.25, "cer": 0.125}
    metrics = {f"val/{name}": {"before": value * 2, "best": value} for name, value in values.items()}
    record = {
        **one.run.record,
        "metrics": metrics,
        "primary": {"target": "val/perplexity"},
        "n": {"val": 40, "generated": 7, "test": 50, "test/generated": 50},
        "test": {"test/wer": 0.3, "test/perplexity": 3.5},
    }
    rows = list(card.columns(replace(one, task=task, run=replace(one.run, record=record)), None))
    assert [(row["metric"], row["split"], row["before"], row["value"], row["n"]) for row in rows] == [
        ("wer", "validation", 0.5, 0.25, 7),
        ("wer", "test", None, 0.3, 50),
        ("cer", "validation", 0.25, 0.125, 7),
        ("perplexity", "validation", 6.0, 3.0, 40),
        ("perplexity", "test", None, 3.5, 50),
        ("token_accuracy", "validation", 1.0, 0.5, 40),
    ]
    assert [row["less_is_better"] for row in rows if row["split"] == "validation"] == [True, True, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.CASES)
def test_the_card_of_each_task_shows_its_primary_metric_as_the_run_recorded_it(name: str, tuned: Any) -> None:
    from sft_lightning.export.formats import FORMATS as formats

    one = tuned(name)
    rows = {row["metric"]: row for row in card.columns(one, None) if row["what"] == "learned"}
    for metric in (one.task.primary.name, *one.task.metric_names):
        held = one.run.record["metrics"][f"val/{metric}"]
        assert rows[metric]["value"] == pytest.approx(held["best"], nan_ok=True) and rows[metric]["n"] > 0
    if one.network.input_spec.kind == "speech":
        assert list(rows)[:2] == ["wer", "cer"], "error rates come first"
    text = "\n".join(card.body(one, formats[cases.CASES[name].format](), ("new",), {"heads": {}}))
    assert f"| learned | {next(iter(rows))}" in text


def test_each_kind_of_input_has_a_readme_in_our_own_format() -> None:
    from sft_lightning.export.safetensors_folder import ASKED
    from sft_lightning.serve.readers import READERS

    assert {*ASKED, "image", "text"} == set(READERS)
