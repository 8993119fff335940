"""YAML is read as plain values: a tag that would make an object is refused in one line, and nothing is run."""

from pathlib import Path

import pytest

from sft_lightning.runs import load
from tests.refused import refused
from tests.security.conftest import Command, Trap, check_refused, config, network

DISTILL = ("--config", "experiments/digits/distill.yaml")
TAGS = ["python/object/apply:os.system", "python/object/new:os.system", "python/name:os.system"]


def planted(trap: Trap, tag: str = TAGS[0]) -> str:
    return f"!!{tag} ['touch {trap.path}']"


@pytest.mark.parametrize("tag", TAGS)
def test_a_config_file_makes_no_objects(tag: str, command: Command, tmp_path: Path, trap: Trap) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"network: MLP\ndata: Digits\nmodel: {planted(trap, tag)}\n")
    done = command("fit", "--config", file)
    assert not trap.sprung, "the command in the YAML was run"
    check_refused(done, "--config", file, "line 3", tag)


@pytest.mark.parametrize(
    ("option", "joined"),
    [
        *(("trainer", False), ("data", True), ("network.init_args", False), ("model.init_args.optimizer_args", True)),
        *(("model.lr", False), ("experiment", True)),
    ],
)
def test_a_value_on_the_command_line_makes_no_objects(option: str, joined: bool, command: Command, trap: Trap) -> None:
    value = planted(trap)
    done = command("fit", *DISTILL, *([f"--{option}={value}"] if joined else [f"--{option}", value]))
    assert not trap.sprung, "the command in the value was run"
    check_refused(done, f"--{option}", f"!!{TAGS[0]}")


def test_exclamation_marks_in_a_text_are_no_tags(command: Command) -> None:
    done = command("fit", *DISTILL, "--wandb", "disabled", "--wandb_group", "wow!! really!", "--trainer.max_epochs", 1)
    assert done.code == 0, done.err
    assert done.run.config["wandb_group"] == "wow!! really!"


def test_a_file_that_an_option_names_makes_no_objects(command: Command, tmp_path: Path, trap: Trap) -> None:
    (tmp_path / "model.yaml").write_text(f"class_path: PlainSFT\ninit_args: {planted(trap)}\n")
    done = command("fit", *DISTILL, "--model", tmp_path / "model.yaml")
    assert not trap.sprung, "the command in the file was run"
    check_refused(done, "model", "model.yaml", TAGS[0])


@pytest.mark.parametrize("way", ["--resume", "--run"])
def test_a_runs_config_makes_no_objects(way: str, command: Command, tmp_path: Path, trap: Trap) -> None:
    done = command("fit", *config(tmp_path, network("MLP", in_features=64, hidden=[8])), "--wandb", "disabled")
    assert done.code == 0, done.err
    run = done.run
    run.files.config.write_text(run.files.config.read_text() + f"wandb_tags: {planted(trap)}\n")
    again = command("fit" if way == "--resume" else "test", way, run.path)
    assert not trap.sprung, "the command in the run's config.yaml was run"
    check_refused(again, "--config", run.files.config, "line", TAGS[0])
    with refused(run.files.config, TAGS[0]):
        _ = load(run.path).config
    assert not trap.sprung
