"""What the user sets with `--set data.NAME=VALUE` is in what the front door reads, counts and says, or it is refused."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.autoconfig.default_study import front_door, infer_study
from sft_lightning.autoconfig.recipe import Length
from sft_lightning.autoconfig.trainer_settings import with_settings
from sft_lightning.cli.ablate import settings
from sft_lightning.cli.main import main
from tests.autoconfig.files import csv_rows, instructions, scores
from tests.data.text_files import texts, write_jsonl, write_text
from tests.refused import check_printed, refused


def planned(network: str, data: str, **settings: Any) -> tuple[dict[str, Any], str]:
    """(the arguments of the data, what is said)."""
    study, lines = front_door(network, data, settings=settings)
    return study["base"]["data"]["init_args"], "\n".join(lines)


def test_a_length_that_the_user_sets_is_what_texts_are_cut_to_and_what_is_said(
    nets: dict[str, str], tmp_path: Path
) -> None:
    file = csv_rows(tmp_path / "reviews.csv", 400)
    init, said = planned(nets["bert"], file, max_length=12, batch_size=8)
    assert init["max_length"] == 12 and ", 12 tokens at most" in said and "steps of 8 samples" in said
    with refused("data.max_length", "65", "64 tokens"):
        planned(nets["bert"], file, max_length=65)
    init, said = planned(nets["bert"], file, max_length=None)
    assert init["max_length"] is None and "tokens at most" not in said, "null is the network's own limit"
    with refused("data.max_length", "at least 1"):
        planned(nets["bert"], file, max_length=0)
    _, short = planned(nets["llama"], write_text(tmp_path / "a.txt", "\n\n".join(texts(40))), max_length=4)
    _, whole = planned(nets["llama"], str(tmp_path / "a.txt"))
    assert "40 documents" in short and steps(short) > steps(whole), "shorter blocks are more samples"


def steps(said: str) -> int:
    return int(said.split("training   ")[1].split(" ")[0].replace(",", ""))


def test_columns_that_the_user_sets_are_those_that_are_read(nets: dict[str, str], tmp_path: Path) -> None:
    rows = [
        {"text": t, "note": f"{t}, too", "label": i % 2, "mood": ("a", "b", "c")[i % 3]}
        for i, t in enumerate(texts(60))
    ]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    init, said = planned(nets["bert"], file, text_column="note", label_column="mood")
    assert (init["text_column"], init["label_column"]) == ("note", "mood") and "a 20, b 20, c 20" in said
    init, said = planned(nets["bert"], file, text_column="text", pair_column="note")
    assert init["pair_column"] == "note" and "'text' and 'note'" in said
    with refused("--text_column", "'nosuch'"):
        planned(nets["bert"], file, text_column="nosuch")
    with refused("data.text_column", "note", "--text_column"):
        front_door(nets["bert"], file, text_column="text", settings={"text_column": "note"})
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"en": t, "de": f"{t}!", "fr": f"{t}?"} for t in texts(40)])
    init, said = planned(nets["t5"], pairs, source_column="fr", target_column="de")
    assert init["source_column"] == "fr" and "source texts in fr" in said
    with refused("--text_column", "'nosuch'"):
        planned(nets["t5"], pairs, source_column="nosuch", target_column="de")


def test_labels_the_task_and_classes_that_the_user_sets_are_counted(nets: dict[str, str], tmp_path: Path) -> None:
    file = csv_rows(tmp_path / "reviews.csv", 60, kinds=("sad", "glad", "odd"))
    init, said = planned(nets["bert"], file, labels=["glad", "sad", "odd", "none"])
    assert init["labels"][0] == "glad" and "4 classes: glad 20, sad 20, odd 20, none 0" in said
    _, said = planned(nets["bert"], file, classes=["sad", "glad"])
    assert "40 samples with sad and glad alone" in said
    with refused("--data", "'sad'"):
        front_door(nets["bert"], file, settings={"labels": ["glad", "odd"]})
    whole = write_jsonl(tmp_path / "w.jsonl", [{"text": t, "score": i % 3} for i, t in enumerate(texts(60))])
    assert front_door(nets["bert"], whole, settings={"task": "regression"})[0]["select"]["target"] == "val/mse"
    with refused("data.task", "--task"):
        front_door(nets["bert"], scores(tmp_path / "s.jsonl"), task="classification", settings={"task": "regression"})


def test_shares_of_samples_that_the_user_sets_are_counted_or_refused(nets: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    csv_rows(tmp_path / "d/train.csv", 400)
    _, said = planned(nets["bert"], str(tmp_path / "d"), val_fraction=0.5, test_fraction=0.1, train_fraction=0.5)
    assert "10% set aside to test" in said and "50% of the rest" in said and "about 90 to learn" in said
    _, said = planned(nets["bert"], str(tmp_path / "d"), shots_per_class=4)
    assert "about 8 to learn" in said
    csv_rows(tmp_path / "d/val.csv", 30)
    with refused("data.val_fraction", "no effect"):
        planned(nets["bert"], str(tmp_path / "d"), val_fraction=0.5)
    with refused("data.val", "--data"):
        planned(nets["bert"], str(tmp_path / "d"), val="other.csv")


def test_settings_of_pairs_instructions_and_plain_text_are_read_as_fit_reads_them(
    nets: dict[str, str], tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [{"source": t, "target": t} for t in texts(40)]
    for row in rows[:9]:
        row["source"] = ""
    file = write_jsonl(tmp_path / "pairs.jsonl", rows)
    _, said = planned(nets["t5"], file, on_bad_sample="skip")
    assert "31 pairs" in said and "9 pairs of train left out" in said
    with refused("--data", "line 1"):
        front_door(nets["t5"], file, settings={"on_bad_sample": "fail"})
    with refused("data.metrics", "'blue'"):
        planned(nets["t5"], write_jsonl(tmp_path / "b.jsonl", rows[9:]), metrics=["blue"])
    study, _ = front_door(nets["llama"], instructions(tmp_path / "i.jsonl"), settings={"generate_samples": 2})
    assert study["base"]["data"]["init_args"]["generate_samples"] == 2 and "test/rougeL" in study["report"]
    plain = write_text(tmp_path / "a.txt", "\n\n".join(texts(40)))
    init, said = planned(nets["llama"], plain, documents="lines", packing=True)
    assert init["packing"] is True and "one a line" in said
    with refused("data.text_column", "no columns"):
        planned(nets["llama"], plain, text_column="text")


@pytest.mark.parametrize("option", ["data.class_path=Digits", "data.train=other.csv"])
def test_what_data_are_read_cannot_be_set(
    nets: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    file = csv_rows(tmp_path / "reviews.csv")
    assert main(["ablate", "--network", nets["bert"], "--data", file, "--dry-run", "--set", option]) == 2
    check_printed(capsys.readouterr().err, option.partition("=")[0])


def of_fit(network: str, data: str, **trainer: Any) -> tuple[dict[str, Any], str]:
    """(the settings of the trainer, what is said of training)."""
    found = infer_study(network, data, of_trainer=trainer)
    (said,) = (line for line in found.lines if line.startswith("training"))
    return found.study["base"]["trainer"], said.removeprefix("training   ")


def test_the_length_of_a_fit_that_the_user_sets_is_planned_and_said(nets: dict[str, str], tmp_path: Path) -> None:
    file = csv_rows(tmp_path / "reviews.csv", 400)  # 256 to learn from: 16 steps of 16
    for given, trainer, said in (
        (
            {"max_epochs": 3},
            {"max_epochs": 3, "val_check_interval": 8},
            "48 steps of 16 samples (3 epochs), validated 6 times",
        ),
        (
            {"max_epochs": 20},
            {"max_epochs": 20, "check_val_every_n_epoch": 2},
            "320 steps of 16 samples (20 epochs), validated 10",
        ),
        (
            {"max_steps": 40},
            {"max_epochs": 3, "max_steps": 40, "val_check_interval": 4, "check_val_every_n_epoch": None},
            "40 steps of 16 samples (3 epochs)",
        ),
        ({"max_epochs": 2, "max_steps": 64}, {"max_epochs": 2, "max_steps": 64}, "32 steps of 16 samples (2 epochs)"),
        (
            {"max_epochs": 6, "check_val_every_n_epoch": 3},
            {"max_epochs": 6, "check_val_every_n_epoch": 3},
            "validated 2 times",
        ),
        ({"max_epochs": 1, "limit_train_batches": 0.5}, {"max_epochs": 1}, "8 steps of 16 samples (1 epoch)"),
        ({"precision": "bf16-mixed"}, {"precision": "bf16-mixed"}, ", bf16-mixed"),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, {"val_check_interval": 16}, "48 steps of 16"),
    ):
        found, line = of_fit(nets["bert"], file, **given)
        assert trainer.items() <= found.items() and said in line, (given, found, line)
    plain, unset = (of_fit(nets["bert"], file, **given) for given in ({}, {"log_every_n_steps": 2}))
    assert plain == unset, "a setting that changes no length changed the plan"
    planned = Length(16, {"max_epochs": 1, "max_steps": 600, "val_check_interval": 60}, 600, 10)
    assert with_settings(planned, 99_999, {"val_check_interval": 100}).trainer["max_steps"] == 600, "the limit is lost"
    assert "max_steps" not in with_settings(planned, 99_999, {"max_epochs": 2}).trainer
    for wrong in (
        {"max_epochs": 0},
        {"accumulate_grad_batches": -1},
        {"max_steps": 1.5},
        {"max_epochs": "many"},
        {"limit_train_batches": 0},
    ):
        with refused(f"trainer.{next(iter(wrong))}", "number above 0"):
            of_fit(nets["bert"], file, **wrong)


def test_settings_of_the_retention_data_are_read_with_or_refused(nets: dict[str, str], tmp_path: Path) -> None:
    rows = [{"source": t, "target": f"{t}!", "note": f"{t}?"} for t in texts(40)]
    file, old = (write_jsonl(tmp_path / name, rows) for name in ("new.jsonl", "old.jsonl"))
    given = {
        "source_column": "note",
        "target_column": "source",
        "batch_size": 3,
        "max_length": 12,
        "test_fraction": 0.25,
    }
    found = infer_study(nets["t5"], file, old, of_retention=given)
    assert given.items() <= found.study["base"]["retention"]["init_args"].items()
    assert found.study["base"]["data"]["init_args"]["source_column"] == "source"
    assert any(line.startswith("retention") and "source texts in note" in line for line in found.lines), found.lines
    for wrong, value in (("train", "x"), ("max_length", 0), ("source_column", "nosuch")):
        with refused(f"retention.{wrong}" if value != "nosuch" else "--text_column"):
            infer_study(
                nets["t5"],
                file,
                old,
                of_retention={wrong: value, **({"target_column": "target"} if value == "nosuch" else {})},
            )
    with refused("retention.batch_size", "--retention"):
        infer_study(nets["t5"], file, of_retention={"batch_size": 3})


@pytest.mark.parametrize("text", ["#", "# a", "|", ">"])
def test_a_value_that_yaml_reads_as_nothing_is_refused_with_its_quotes(text: str) -> None:
    with refused("--set", f"data.label_separator={text}", f'"{text}"'):
        settings(Namespace(set=[f"data.label_separator={text}"]))
    assert settings(Namespace(set=[f'a="{text}"', "b=", "c=null"])) == {"a": text, "b": None, "c": None}
