"""`ablate --extend`: new labels for a network that has others, from a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.ablation.study import make_study
from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.autoconfig.extended_study import in_parts, joins
from sft_lightning.config.overrides import merged, nested
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.datamodule import DATA_MODULES
from sft_lightning.networks import TimmDetection
from tests.autoconfig.files import csv_rows, scores
from tests.data.box_files import write_voc
from tests.data.text_files import texts, write_jsonl, write_text
from tests.networks.tiny import tiny_folder
from tests.refused import refused

ALL = ["old0", "old1", "old2", "sad", "glad"]


def test_texts_with_new_labels_and_some_old_ones_train_and_export_one_model(
    nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    from transformers import AutoModelForSequenceClassification

    old = csv_rows(tmp_path / "old.csv", header="text,label", kinds=("old0", "old1", "old2"))
    study, lines = front_door(nets["bert"], csv_rows(tmp_path / "new.csv"), old, extend=True)
    assert "2 new labels (glad, sad) beside 3 old ones" in lines[-1] and "harmonic" in lines[-1]
    assert next(iter(study["arms"])) == study["baseline"] == "naive" and "ceiling" in study["arms"]
    assert make_study(study, tmp_path, "study").select.rule == "best"
    config = merged(study["base"], nested(study["arms"]["rehearse_mse"]["set"], "set"))
    config["trainer"] |= {"val_check_interval": 1}
    config["trainer"].pop("check_val_every_n_epoch", None)
    run = fit({**config, "test_after_fit": True}, steps=2)
    assert not [
        m for m in study["report"] if m not in run.record["test"] and m.removeprefix("test/") not in run.record["test"]
    ]
    assert run.record["test"]["test/samples_old"] > 0 < run.record["test"]["test/samples_new"]
    exported = AutoModelForSequenceClassification.from_pretrained(run.files.model)
    assert sorted(exported.config.id2label.values()) == sorted(ALL)
    assert list(exported.config.id2label.values())[:3] == ALL[:3] and exported.classifier.out_features == 5


def test_without_an_old_sample_the_old_output_layer_is_watched(nets: dict[str, str], tmp_path: Path) -> None:
    study, lines = front_door(nets["bert"], csv_rows(tmp_path / "new.csv"), extend=True)
    assert study["select"]["target"] == "val/accuracy_new" and study["select"]["kept"] == "retention/agreement"
    assert study["base"]["data"]["init_args"]["known"] == ALL[:3]
    assert "ceiling" not in study["arms"] and "--retention would help" in lines[-1]
    make_study(study, tmp_path, "study")


def test_labels_that_look_like_known_ones_are_said(nets: dict[str, str], tmp_path: Path) -> None:
    _, lines = front_door(nets["bert"], csv_rows(tmp_path / "new.csv", kinds=("Old0", "old1 ", "sad")), extend=True)
    assert "'old0' and 'Old0'" in lines[-1] and "'old1' and 'old1 '" in lines[-1]


def columns(path: Path, types: tuple[str, ...], sentences: int = 40) -> str:
    """Sentences whose second and third word are an entity of one of the types in turn."""
    rows = []
    for i, text in enumerate(texts(sentences)):
        tags = {1: f"B-{types[i % len(types)]}", 2: f"I-{types[i % len(types)]}"}
        rows.append("\n".join(f"{word}\t{tags.get(at, 'O')}" for at, word in enumerate(text.split())))
    return write_text(path, "\n\n".join(rows))


def tagging(folder: Path) -> tuple[str, str, str]:
    """A network that tags persons, a file with a new type, and one with persons."""
    tagger = tiny_folder(folder / "tagger", "bert", "tokens", id2label=dict(enumerate(["O", "B-per", "I-per"])))
    return tagger, columns(folder / "new.conll", ("film",)), columns(folder / "old.conll", ("per",))


def test_tags_of_new_types_are_added_to_a_tagger(tmp_path: Path) -> None:
    tagger, new, old = tagging(tmp_path)
    study, lines = front_door(tagger, new, old, extend=True)
    assert "2 new labels (B-film, I-film) beside 3 old ones" in lines[-1]
    assert study["select"]["target"] == "val/harmonic" and "new_kl" in study["arms"]
    make_study(study, tmp_path, "study")
    alone, lines = front_door(tagger, new, extend=True)
    assert alone["select"]["target"] == "val/entity_f1_new" and "--retention would help" in lines[-1]


def test_tags_in_another_scheme_are_added_in_the_networks(tmp_path: Path) -> None:
    known = ["O", "B-per", "I-per", "E-per", "S-per"]
    tagger = tiny_folder(tmp_path / "tagger", "bert", "tokens", labels=5, id2label=dict(enumerate(known)))
    study, lines = front_door(tagger, columns(tmp_path / "new.conll", ("film",)), extend=True)
    assert "4 new labels (B-film, I-film, E-film, S-film) beside 5 old ones" in lines[-1]
    data = DATA_MODULES.find("Extend")(**study["base"]["data"]["init_args"])
    data.setup()
    assert data.task_info.labels == [*known, "B-film", "I-film", "E-film", "S-film"]
    assert any("are in IOB2, and are written in IOBES" in note for note in data.notes)


@pytest.mark.slow
def test_tags_of_new_types_train_and_export_one_tagger(tmp_path: Path, fit: Callable[..., Any]) -> None:
    from transformers import AutoModelForTokenClassification

    study, _ = front_door(*tagging(tmp_path), extend=True)
    config = merged(study["base"], nested(study["arms"]["rehearse_mse"]["set"], "set"))
    config["trainer"] |= {"val_check_interval": 1}
    config["trainer"].pop("check_val_every_n_epoch", None)
    run = fit({**config, "test_after_fit": True}, steps=2)
    tested = run.record["test"]
    assert not [m for m in study["report"] if m not in tested and m.removeprefix("test/") not in tested]
    assert tested["test/entities_old"] > 0 < tested["test/entities_new"]
    exported = AutoModelForTokenClassification.from_pretrained(run.files.model).config.id2label
    assert [exported[i] for i in range(5)] == ["O", "B-per", "I-per", "B-film", "I-film"]


def test_one_new_label_is_enough(nets: dict[str, str], tmp_path: Path) -> None:
    rows = csv_rows(tmp_path / "new.csv", kinds=("sad",))
    study, lines = front_door(nets["bert"], rows, extend=True)
    assert "1 class: sad 60" in lines[0] and "1 new label (sad) beside 3 old ones" in lines[-1]
    data = DATA_MODULES.find("Extend")(**study["base"]["data"]["init_args"])
    data.setup()
    assert data.task_info.labels == [*ALL[:3], "sad"] and set(data.splits["train"].targets.tolist()) == {3}
    with refused("--data", "1 class", "'sad'"):
        front_door(nets["bert"], rows)


def test_sets_of_new_labels_are_added_to_a_network_of_sets(tmp_path: Path) -> None:
    net = tiny_folder(tmp_path / "sets", "bert", "sequence", problem_type="multi_label_classification")
    rows = [{"text": f"a b {i}", "labels": ["sad", "glad"][: i % 3]} for i in range(40)]
    study, lines = front_door(net, write_jsonl(tmp_path / "new.jsonl", rows), extend=True)
    assert "2 new labels (glad, sad)" in lines[-1] and study["select"]["target"] == "val/f1_micro_new"
    made = make_study(study, tmp_path, "study")
    assert made.baseline == "naive"


@pytest.mark.slow
def test_boxes_of_a_new_class_are_added_to_a_detector(tmp_path: Path, fit: Callable[..., Any]) -> None:
    made = {"name": "test_resnet", "width": 64, "convolutions": 1}
    TimmDetection(TaskInfo("object_detection", 1, ["square"]), **made).save_pretrained(str(tmp_path / "net"))
    new, old = str(write_voc(tmp_path / "new")), str(write_voc(tmp_path / "old"))
    of = {"settings": {"labels": ["disc"]}, "of_retention": {"labels": ["square"]}}
    study, lines = front_door(str(tmp_path / "net"), new, old, extend=True, **of)
    assert "1 new label (disc) beside 1 old one" in lines[-1]
    assert study["select"]["target"] == "val/harmonic" and {"own", "new_kl", "rehearse_kl"} < set(study["arms"])
    make_study(study, tmp_path, "study")
    config = merged(study["base"], nested(study["arms"]["rehearse_kl"]["set"], "set"))
    config["trainer"] |= {"val_check_interval": 1}
    config["trainer"].pop("check_val_every_n_epoch", None)
    run = fit({**config, "test_after_fit": True}, steps=2)
    tested = run.record["test"]
    assert not [m for m in study["report"] if m not in tested and m.removeprefix("test/") not in tested]
    assert tested["test/boxes_old"] > 0 < tested["test/boxes_new"] and 0 <= tested["test/old_as_new"] <= 1
    alone, lines = front_door(str(tmp_path / "net"), new, extend=True, settings={"labels": ["disc"]})
    assert alone["select"]["target"] == "val/map_new" and "ceiling" not in alone["arms"]


def test_settings_of_the_data_go_to_the_new_and_those_of_retention_to_the_old() -> None:
    given = {
        "data.labels": ["a"],
        "data.init_args.batch_size": 4,
        "retention.labels": ["b"],
        "model.lr": 0.1,
        "seeds": 1,
    }
    assert in_parts(given) == {
        "data.init_args.new.init_args.labels": ["a"],
        "data.init_args.batch_size": 4,
        "data.init_args.old.init_args.labels": ["b"],
        "model.lr": 0.1,
        "seeds": 1,
    }


def test_detectors_with_one_softmax_over_all_classes_are_told_apart() -> None:
    named = {"TimmDetection": "resnet18", "TorchvisionDetection": "fcos_resnet50_fpn"}
    assert all(joins({"class_path": cls, "init_args": {"name": name}}) for cls, name in named.items())
    others = {
        "TorchvisionDetection": "ssd300_vgg16",
        "TransformersDetection": "x",
        "FasterRCNN": "fasterrcnn_resnet50_fpn",
    }
    assert not any(joins({"class_path": cls, "init_args": {"name": name}}) for cls, name in others.items())


def test_what_cannot_be_extended_is_refused(nets: dict[str, str], tmp_path: Path) -> None:
    with refused("--extend", "no label", "leave it out"):
        front_door(nets["bert"], csv_rows(tmp_path / "a.csv", kinds=("old0", "old2")), extend=True)
    rows = write_text(
        tmp_path / "d.csv", "\n".join(["text,label", *(f"a {i} b,old{i % 2}" for i in range(30)), "c d,sad"])
    )
    with refused("--extend", "'sad'", "1 sample"):
        front_door(nets["bert"], rows, extend=True)
    with refused("--extend", "no output layer"):
        front_door(nets["encoder"], csv_rows(tmp_path / "b.csv"), extend=True)
    with refused("--extend", "token_classification", "named classes"):
        front_door(nets["bert"], columns(tmp_path / "tags.conll", ("film",)), extend=True)
    with refused("--extend", "regression"):
        front_door(nets["bert"], scores(tmp_path / "c.jsonl"), extend=True)
