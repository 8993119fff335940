"""What is inferred from a network and some data trains, and measures what it reports."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.ablation.study import make_study
from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.config.overrides import merged, nested
from tests.autoconfig.files import IMAGES, csv_rows, image_list, instructions, pairs, questions, scores
from tests.data.text_files import write_text


def steps_and_splits(base: dict[str, Any]) -> dict[str, Any]:
    """The same with a test split that is touched at the end: it must be there."""
    trainer = {k: v for k, v in base["trainer"].items() if k not in ("check_val_every_n_epoch", "val_check_interval")}
    return {**base, "trainer": {**trainer, "val_check_interval": 1}, "test_after_fit": True}


@pytest.mark.parametrize("network", IMAGES)
def test_a_folder_of_images_trains_on_every_kind_of_image_network(
    network: str, nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    study, _ = front_door(nets[network], IMAGES[network](tmp_path))
    run = fit(steps_and_splits(study["base"]), steps=1)
    assert run.status == "finished" and "test/accuracy" in run.record["test"]
    for metric in (study["select"]["target"], study["select"]["kept"]):
        assert metric in run.metrics, f"the rule chooses by {metric}, which is not measured"
    missing = [
        m for m in study["report"] if m not in run.record["test"] and m.removeprefix("test/") not in run.record["test"]
    ]
    assert not missing, f"reported, and not measured: {missing}"


TEXTS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "labelled CSV": ("bert", lambda tmp: csv_rows(tmp / "reviews.csv")),
    "pairs in JSONL": ("encoder", lambda tmp: pairs(tmp / "nli.jsonl")),
    "regression": ("bert", lambda tmp: scores(tmp / "scores.jsonl")),
    "questions": ("bert", lambda tmp: questions(tmp / "squad.json")),
    "labels for a language model": ("llama", lambda tmp: csv_rows(tmp / "reviews.csv")),
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_table_of_texts_trains(what: str, nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]) -> None:
    network, make = TEXTS[what]
    study, _ = front_door(nets[network], make(tmp_path))
    run = fit(steps_and_splits(study["base"]), steps=1)
    assert {study["select"]["target"], study["select"]["kept"]} <= run.metrics.keys()
    missing = [
        m for m in study["report"] if m not in run.record["test"] and m.removeprefix("test/") not in run.record["test"]
    ]
    assert not missing, f"reported, and not measured: {missing}"


def test_lists_of_images_for_training_and_testing_train(
    nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    file = Path(image_list(tmp_path))
    lines = file.read_text().splitlines()
    write_text(tmp_path / "train.csv", "\n".join(lines))
    write_text(tmp_path / "test.csv", "\n".join(lines[:10]))
    file.unlink()
    run = fit(steps_and_splits(front_door(nets["vit"], str(tmp_path))[0]["base"]), steps=1)
    assert "test/accuracy" in run.record["test"]


def test_every_arm_of_the_default_study_trains_with_its_first_and_last_setting(
    nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    content, _ = front_door(nets["bert"], csv_rows(tmp_path / "reviews.csv"))
    study = make_study(content, tmp_path, "x")
    assert [a.name for a in study.arms] == ["linear_probe", "plain", "l2sp", "distill"]
    for arm in study.arms:
        base = study.base if arm.name != "linear_probe" else {**study.base, "model": {}}  # which takes no learning rate
        for setting in arm.settings[:: max(1, len(arm.settings) - 1)]:
            fit(merged(merged(base, arm.overlay), nested(setting, arm.name)), steps=1)


def test_instructions_train_a_language_model_and_each_arm_of_it(
    nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    data = tmp_path / "chat"
    instructions(data / "train.jsonl")
    instructions(data / "test.jsonl", 9)
    content, lines = front_door(nets["llama"], str(data), retention=str(data))
    assert content["base"]["network"]["class_path"] == "TransformersLM"
    study = make_study(content, tmp_path, "x")
    for arm in study.arms:
        run = fit(steps_and_splits(merged(study.base, arm.overlay)), steps=1)
        assert {study.select.target, study.select.kept} <= run.metrics.keys()
    assert "last_block" in "\n".join(lines)
    moved = merged(study.base, study.arm("last_block").overlay)
    run = fit(moved, steps=1)
    from safetensors.torch import load_file

    whole = load_file(f"{nets['llama']}/model.safetensors").values()
    assert run.record["parameters"]["trainable"] < sum(p.numel() for p in whole) / 2, run.record["parameters"]
