"""A run that is gone on with, tested or predicted from another folder, or on files that changed, notices."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_lightning.runs import Run, load
from sft_lightning.runs.same_data import of_test
from tests.cli.conftest import Command, command  # noqa: F401  a fixture
from tests.refused import check_printed
from tests.survival.cases import on_digits

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
WORDS = ["good", "bad", "fair", "poor", "great"]


def write_tables(folder: Path, shift: int) -> None:
    """train.csv and test.csv, which every folder has, of different texts."""
    folder.mkdir()
    for name, rows in (("train", 40), ("test", 12)):
        lines = [f"a {WORDS[(i + shift) % 5]} film number {i + shift},{('glad', 'sad')[i % 2]}" for i in range(rows)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Path:  # noqa: F811
    """Folders one/ and two/, and a run that was made in one/ with relative paths."""
    for shift, name in enumerate(("one", "two")):
        write_tables(tmp_path / name, shift * 7)
    config = {
        "model": "PlainSFT",
        "network": {"class_path": "LSTM", "init_args": {"hidden": 8, "embedding_dim": 8}},
        "data": {"class_path": "TextTable", "init_args": {"train": "train.csv", "test": "test.csv", "batch_size": 8}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        "wandb": "disabled",
        "test_after_fit": True,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path / "one")
    done = command("fit", "--config", tmp_path / "config.yaml", "--run_id", "made", "--experiment", "x")
    assert done.code == 0, done.err
    return tmp_path


def the_run(folder: Path) -> Run:
    return load(folder / "runs/x/made")


def content(folder: Path) -> dict[str, bytes]:
    run = the_run(folder).files
    return {f.name: f.read_bytes() for f in (run.config, run.record, run.metrics, run.last, run.best)}


def check_refused(done: Any, folder: Path, before: dict[str, bytes], key: str, *values: str) -> None:
    assert done.code == 2, f"the fit went on with other data:\n{done.out}"
    check_printed(done.err, key, *values)
    changed = [name for name, held in content(folder).items() if held != before[name]]
    assert not changed, f"a refused resume changed {changed}"


def test_a_resume_from_another_folder_is_refused_and_leaves_the_run_as_it_was(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,  # noqa: F811
) -> None:
    before, prints = content(folder), the_run(folder).record["data"]["fingerprint"]
    monkeypatch.chdir(folder / "two")
    done = command("fit", "--resume", folder / "runs/x/made", "--trainer.max_epochs", 2)
    values = (f"recorded {prints['train']}", "train of data", "test of data", str(folder / "one"), str(folder / "two"))
    check_refused(done, folder, before, "data", *values)
    named = ("--run_id", "made", "--experiment", "x", "--ckpt_path", "last")
    done = command("fit", "--config", folder / "config.yaml", *named, "--trainer.max_epochs", 2)
    check_refused(done, folder, before, "data", *values)


def test_a_resume_on_a_file_that_changed_is_refused(folder: Path, command: Command) -> None:  # noqa: F811
    before = content(folder)
    with (folder / "one/train.csv").open("a") as file:
        file.write("one more,glad\n")
    done = command("fit", "--resume", folder / "runs/x/made", "--trainer.max_epochs", 2)
    check_refused(done, folder, before, "data", "train of data")
    write_again = (folder / "one/train.csv").read_text().removesuffix("one more,glad\n")
    (folder / "one/train.csv").write_text(write_again)
    done = command("fit", "--resume", folder / "runs/x/made", "--trainer.max_epochs", 2)
    assert done.code == 0, done.err


def test_the_same_data_may_lie_elsewhere(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,  # noqa: F811
) -> None:
    shutil.copytree(folder / "one", folder / "three")
    monkeypatch.chdir(folder / "three")
    prints = the_run(folder).record["data"]["fingerprint"]
    done = command("fit", "--resume", folder / "runs/x/made", "--trainer.max_epochs", 2)
    assert done.code == 0, done.err
    assert "note " not in done.out
    assert the_run(folder).record["data"]["fingerprint"] == prints
    assert the_run(folder).record["cwd"] == str(folder / "one"), "where the run was made was overwritten"


def test_what_is_not_here_but_where_the_run_was_made_is_named(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,  # noqa: F811
) -> None:
    before = content(folder)
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder / "empty")
    refusal = ("data.init_args.train", "train.csv", str(folder / "one"))
    check_refused(command("fit", "--resume", folder / "runs/x/made"), folder, before, *refusal)
    check_refused(command("test", "--run", folder / "runs/x/made"), folder, before, *refusal)


@pytest.mark.parametrize(("name", "split"), [("test", "test"), ("validate", "val"), ("predict", "test")])
def test_a_measurement_of_other_samples_says_so_in_a_line_and_in_the_record(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Command,  # noqa: F811
    name: str,
    split: str,
) -> None:
    first = the_run(folder).record["data"]["fingerprint"]
    assert command(name, "--run", folder / "runs/x/made").code == 0
    entry = the_run(folder).record["measured"][name]
    assert entry["fingerprint"] == {split: first[split]} and "note" not in entry, (
        "the run's own data is called other data"
    )
    assert (entry["checkpoint"], entry["step"]) == ("best.ckpt", the_run(folder).record["selected"]["step"])
    monkeypatch.chdir(folder / "two")
    done = command(name, "--run", folder / "runs/x/made")
    assert done.code == 0, done.err
    (note,) = [line for line in done.out.splitlines() if line.startswith("note ")]
    for said in (f"{split} of data", first[split], str(folder / "one"), str(folder / "two")):
        assert said in note, f"'{said}' is not said: {note}"
    record = the_run(folder).record
    assert record["data"]["fingerprint"] == first, "the first fingerprint was overwritten"
    entry = record["measured"][name]
    assert entry["fingerprint"][split] not in first.values()
    assert entry["note"] in note
    if name == "test":
        assert of_test(record, "data") == entry["fingerprint"]["test"], "comparisons go by the fit's test split"


def test_source_data_that_changed_is_noticed_too(tmp_path: Path, command: Command) -> None:  # noqa: F811
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**on_digits("plain", {"max_epochs": 1}, {}), "wandb": "disabled"}))
    run = command("fit", "--config", file, "--run_id", "made", "--experiment", "x").run
    before = content(tmp_path)
    other = ("--retention.init_args.val_fraction", 0.4)
    done = command("fit", "--resume", run.path, "--trainer.max_epochs", 2, *other)
    check_refused(done, tmp_path, before, "data", "val of retention")
    done = command("validate", "--run", run.path, *other)
    assert done.code == 0, done.err
    assert "note       validate: not the data that fit recorded: val of retention" in done.out
    entry = load(run.path).record["measured"]["validate"]
    assert entry["retention_fingerprint"]["val"] != run.record["retention"]["fingerprint"]["val"]


def test_a_run_of_before_fingerprints_were_kept_goes_on(folder: Path, command: Command) -> None:  # noqa: F811
    run = folder / "runs/x/made"
    record = json.loads((run / "run.json").read_text())
    for name in ("data", "measured", "cwd"):
        record.pop(name)
    (run / "run.json").write_text(json.dumps(record))
    done = command("fit", "--resume", run, "--trainer.max_epochs", 2)
    assert done.code == 0, done.err
    assert load(run).record["data"]["fingerprint"]
