"""Other libraries load an export in a fresh process and give the run's own answers, for each task and network family."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sft_lightning import elsewhere
from sft_lightning.core.structures import TaskInfo
from sft_lightning.elsewhere.libraries import TransformersFolder
from sft_lightning.export.parity import COARSE, TOLERANCE, Case, compare, lines
from sft_lightning.export.tuned import Tuned
from sft_lightning.export.writing import export_run
from sft_lightning.networks import NETWORKS, build_network, spec
from sft_lightning.tasks import TASKS
from tests.data.audio_files import beep
from tests.export.cases import CASES
from tests.export.conftest import FEW, answered
from tests.networks.tiny_audio import tiny_whisper
from tests.refused import refused


def check(content: dict[str, Any], case: Case) -> None:
    """Every head agrees to the tolerance and in every decision, from prepared and from raw samples.

    Some choices of the example are scored equal to the last digit.
    """
    for part in [content, *([content["raw"]] if "raw" in content else [])]:
        assert set(part["heads"]) == set(case.heads)
        for found in part["heads"].values():
            tolerance = COARSE if case.coarse else TOLERANCE
            assert found["largest_difference"] <= tolerance * max(1.0, found["largest_output"])
            assert found["equal_decisions"] == 1.0 or (case.probe.kind == "choices" and found["ties"] == 1)
            assert found["n"] == case.probe.n >= 6
    plain = case.format != "safetensors" and case.probe.kind not in ("tokens", "pairs", "speech")
    assert ("raw" in content) == plain, "samples as a user has them were not tried"
    assert bool(content.get("generated")) == (case.probe.kind in ("tokens", "pairs", "speech"))
    if case.probe.kind == "speech":
        assert content["generated"]["of_raw"] > 0, "texts were not generated from the sounds themselves"


@pytest.mark.parametrize("name", FEW)
def test_a_fresh_process_of_another_library_gives_the_runs_own_answers(name: str, few: dict[str, Case]) -> None:
    check(compare(few[name]), few[name])


@pytest.fixture(scope="module")
def rest(root: Path, tuned: Callable[[str], Tuned]) -> dict[str, Case]:
    return answered(tuple(name for name in CASES if name not in FEW), root, tuned)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in FEW])
def test_each_task_on_each_network_family_answers_elsewhere_as_here(name: str, rest: dict[str, Case]) -> None:
    check(compare(rest[name]), rest[name])


def test_each_task_and_each_network_family_has_a_case() -> None:
    own = {name for name, cls in NETWORKS.items() if cls.__module__.startswith("sft_lightning.")}
    assert {case.network for case in CASES.values()} >= own
    families = {task for name in own for task in NETWORKS[name].tasks}
    assert families <= set(TASKS)


@pytest.mark.slow
def test_timm_is_refused_where_it_cannot_resize_images_as_the_run_did(
    tuned: Callable[[str], Tuned], tmp_path: Path, rest: dict[str, Case]
) -> None:
    """It rounds the longer side down, and the data round it to the nearest pixel: images are shifted against each other."""
    with refused("--format", "of 255 levels", "onnx"):
        export_run(tuned("classification-timm-photos").run.path, tmp_path / "timm", "timm")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def spoilt(few: dict[str, Case], tmp_path: Path) -> Callable[..., Case]:
    """`spoilt(change)`: the comparison of BERT with its answers changed."""

    def make(
        change: Callable[[dict[str, Any], dict[str, np.ndarray]], None], name: str = "classification-bert"
    ) -> Case:
        copy = replace(few[name], inputs=tmp_path / "inputs")
        shutil.copytree(few[name].inputs, copy.inputs)
        said = json.loads((copy.inputs / "answers.json").read_text())
        arrays = dict(np.load(copy.inputs / "answers.npz"))
        change(said, arrays)
        (copy.inputs / "answers.json").write_text(json.dumps(said))
        np.savez(copy.inputs / "answers.npz", **arrays)  # type: ignore[arg-type]
        return copy

    return make


def test_a_difference_above_the_tolerance_is_refused(spoilt: Callable[..., Case]) -> None:
    def nudge(said: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        outputs = arrays["source.prepared"]
        outputs[3, 1] += 3 * TOLERANCE * max(1.0, float(np.abs(outputs).max()))

    with refused("--format", "source head", "is allowed"):
        compare(spoilt(nudge))


def test_a_tie_to_within_the_tolerance_may_be_decided_otherwise_and_is_counted(
    few: dict[str, Case], tmp_path: Path
) -> None:
    case = replace(few["classification-bert"], inputs=tmp_path / "inputs")
    shutil.copytree(few["classification-bert"].inputs, case.inputs)
    arrays = dict(np.load(case.inputs / "answers.npz"))
    first = case.probe.new[0][0].clone()
    try:
        case.probe.new[0][0] = torch.tensor([0.1, 0.1 + 2e-6, 0.0])  # which of two classes is a matter of rounding
        for name in ("new.prepared", "new.raw"):
            arrays[name][0] = [0.1 + 2e-6, 0.1, 0.0]
        np.savez(case.inputs / "answers.npz", **arrays)  # type: ignore[arg-type]
        content = compare(case)
    finally:
        case.probe.new[0][0] = first
    assert content["heads"]["new"]["ties"] == 1
    assert content["heads"]["new"]["equal_decisions"] == pytest.approx(14 / 15)
    assert any("1 decided otherwise by a tie" in line for line in lines(content))


def test_answers_from_raw_samples_are_compared_too(spoilt: Callable[..., Case]) -> None:
    def swap(said: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays["new.raw"] = arrays["new.raw"][::-1].copy()

    with refused("--format", "raw inputs"):
        compare(spoilt(swap))


def test_other_labels_are_refused(spoilt: Callable[..., Case]) -> None:
    def rename(said: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        said["labels"] = said["labels"][::-1]

    with refused("--format", "labels"):
        compare(spoilt(rename))


@pytest.mark.parametrize("name", ["source.prepared", "new.prepared", "new.raw"])
def test_outputs_that_are_no_numbers_are_refused(name: str, spoilt: Callable[..., Case]) -> None:
    def lose(said: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays[name][0] = np.nan

    with refused("--format", "other outputs", "inf"):
        compare(spoilt(lose))


def test_pixels_that_are_no_numbers_are_refused(spoilt: Callable[..., Case]) -> None:
    def lose(said: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays["pixels"][0] = np.nan

    with refused("--format", "of 255 levels"):
        compare(spoilt(lose, "classification-timm"))


FACTS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "labels that are lost": ("no labels", lambda said: said.update(labels=None)),
    "the source head's labels": ("source head", lambda said: said["source_labels"].reverse()),
    "the length at which texts are cut": ("max_length", lambda said: said["tokenizer"].update(max_length=7)),
    "the side of padding": ("padding_side", lambda said: said["tokenizer"].update(padding_side="left")),
    "the chat template": ("chat_template", lambda said: said["tokenizer"].update(chat_template="{{ messages }}")),
}


@pytest.mark.parametrize("fact", FACTS)
def test_what_few_samples_do_not_show_is_compared_too(fact: str, spoilt: Callable[..., Case]) -> None:
    told, change = FACTS[fact]
    with refused("--format", told):
        compare(spoilt(lambda said, arrays: change(said)))


def test_another_decision_is_refused_even_where_outputs_may_differ(spoilt: Callable[..., Case]) -> None:
    """As where two libraries resize an image: pixels differ by a level, and outputs with them."""

    def decide(said: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays["pixels"] += 0.004
        arrays["new.raw"] = -arrays["new.raw"]

    with refused("--format", "decides", "differently"):
        compare(spoilt(decide, "classification-timm"))


def test_images_that_are_prepared_otherwise_are_refused(spoilt: Callable[..., Case]) -> None:
    def brighten(said: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        arrays["pixels"] += 0.1

    with refused("--format", "of 255 levels"):
        compare(spoilt(brighten, "classification-timm"))


def test_a_folder_that_the_library_cannot_load_is_refused(spoilt: Callable[..., Case]) -> None:
    def fail(said: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        said["error"] = "OSError: no file named model.safetensors"

    with refused("--format", "cannot be loaded there"):
        compare(spoilt(fail))


def test_the_fresh_process_imports_this_package_only_for_its_own_format() -> None:
    """Otherwise it would not show that the folder and the library alone are enough."""
    for file in Path(elsewhere.__file__).parent.glob("*.py"):
        for line in re.findall(r"^ *from (sft_lightning[\w.]*) import", file.read_text(), re.M):
            own = file.name == "libraries.py" and line in ("sft_lightning", "sft_lightning.export.own_folder")
            assert own or line.startswith("sft_lightning.elsewhere"), f"{file.name} imports {line}"


@pytest.mark.parametrize("language", [None, "german"])
@torch.no_grad()
def test_whispers_own_generation_writes_what_the_run_writes(tmp_path: Path, language: str | None) -> None:
    """With a multilingual model: language and task are given, or neither, where Whisper's own would guess the language."""
    from transformers import WhisperForConditionalGeneration

    folder = tiny_whisper(tmp_path / "whisper")
    own: Any = WhisperForConditionalGeneration.from_pretrained(folder)
    of = own.generation_config
    of.lang_to_id, of.task_to_id, of.is_multilingual = (
        {"<|en|>": 5, "<|de|>": 6},
        {"transcribe": 7, "translate": 8},
        True,
    )
    of.no_timestamps_token_id, of.suppress_tokens, of.begin_suppress_tokens = 9, [10, 11], [12]
    of.no_repeat_ngram_size, of.max_length = 2, 7  # which a run does not use
    network: Any = build_network(spec("TransformersSpeech", pretrained=folder, num_beams=2), TaskInfo("seq2seq", 0))
    network.eval()._whole[0].load_state_dict(own.state_dict())
    network._whole[0].generation_config = of
    network.writer.given = [6, 7, 9] if language else [9]
    network.generation.max_new_tokens = 12
    prompt = network.extractor([beep(300.0, 0.4), beep(500.0, 0.9)])
    texts = network.generate(prompt)
    network.save_pretrained(str(tmp_path / "out"))
    there = TransformersFolder(tmp_path / "out", "speech")
    assert there.texts({"input_features": prompt["input_features"].numpy()}, 12) == texts and all(texts)
    assert there.model.generation_config.num_beams == 2 and there.model.generation_config.max_new_tokens == 12
    assert getattr(there.model.generation_config, "language", None) == ("<|de|>" if language else None)
