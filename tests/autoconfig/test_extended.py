"""`ablate --extend`: new labels for a network that has others, from a table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sft_lightning.ablation.study import make_study
from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.config.overrides import merged, nested
from tests.autoconfig.files import csv_rows, scores
from tests.data.text_files import write_text
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
    with refused("--extend", "regression"):
        front_door(nets["bert"], scores(tmp_path / "c.jsonl"), extend=True)
