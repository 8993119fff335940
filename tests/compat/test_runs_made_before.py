"""Runs and studies made before the house was rebuilt (commit ef08f7b, by make.py) are read, repeated and addressed as then."""

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sft_lightning.ablation.plan import Plan
from sft_lightning.ablation.study import read_study
from sft_lightning.cli.main import main
from sft_lightning.config.resolve import resolve
from sft_lightning.runs import load
from tests.compat.make import EXPERIMENTS, STUDY, write_inputs

BEFORE = Path(__file__).parent / "before"
GROUPS: dict[str, Any] = json.loads((BEFORE / "compared.json").read_text())
POINTS = sorted(p.parent.name for p in BEFORE.glob("small-study/*/run.json"))


def record(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((BEFORE / name / "run.json").read_text())
    return content


def class_paths(content: Any) -> set[str]:
    """Every class_path in a config."""
    if isinstance(content, dict):
        own = {content["class_path"]} if "class_path" in content else set()
        return own.union(*map(class_paths, content.values()))
    return set().union(*map(class_paths, content)) if isinstance(content, list) else set()


SENTENCES = ("answer", "description", "methods", "why")
"""Keys of study.json and run.json that hold sentences, whose wording may change"""


def values(content: Any) -> Any:
    """A file's content without its sentences."""
    if isinstance(content, dict):
        return {key: values(value) for key, value in content.items() if key not in SENTENCES}
    return list(map(values, content)) if isinstance(content, list) else content


WRITTEN = set().union(*(class_paths(yaml.safe_load(f.read_text())) for f in BEFORE.rglob("config.yaml")))


def rows_of(lines: list[str]) -> list[str]:
    """A printed table without its prose: from each rule of dashes to the next empty line."""
    found, inside = [], False
    for line in lines:
        inside = bool(line.strip()) and (inside or line.strip().startswith("──"))
        found += [line] if inside else []
    return found


def same(found: dict[str, Any], expected: dict[str, Any], solved: bool = False) -> None:
    """Metrics are equal: to the bit on the torch and processor that the fixtures were made with, closely elsewhere.

    What is solved for is close there too: scipy's solver sums in another order where it has other threads.
    """
    here = record("digits-plain/before")["versions"]["torch"] == torch.__version__.partition("+")[0]
    exact = (
        here
        and not solved
        and torch.backends.cpu.get_cpu_capability() == (BEFORE / "processor.txt").read_text().strip()
    )
    assert expected.keys() <= found.keys(), f"no longer measured: {expected.keys() - found.keys()}"
    for name, value in expected.items():
        now = found[name]
        if isinstance(value, dict):
            same(now, value, solved)
        elif exact or not isinstance(value, float):
            assert now == value, f"{name} is {now}, and was {value}"
        else:
            assert now == pytest.approx(value, rel=1e-3, abs=1e-5), f"{name} is {now}, and was {value}"


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data files and networks that those experiments named, in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SFT_RUNS_DIR", "runs")
    write_inputs(tmp_path)
    return tmp_path


@pytest.mark.parametrize("group", GROUPS)
class TestCompare:
    def test_prints_the_same_rows(
        self, group: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(BEFORE)
        assert main(["compare", *GROUPS[group]["paths"], "--format", "table"]) == 0
        assert rows_of(capsys.readouterr().out.splitlines()) == rows_of(GROUPS[group]["table"])

    def test_computes_the_same_numbers(
        self, group: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(BEFORE)
        assert main(["compare", *GROUPS[group]["paths"], "--format", "json"]) == 0
        found, expected = json.loads(capsys.readouterr().out), GROUPS[group]["json"]
        for key in ("target", "kept", "baseline"):
            assert found[key] == expected[key]
        for now, row in zip(found["rows"], expected["rows"], strict=True):
            assert {k: now.get(k, "missing") for k in row} == row


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_is_read(name: str) -> None:
    run = load(BEFORE / name / "before")
    assert (run.status, run.record["experiment"]) == ("finished", name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_fit_resolves_the_config_of_a_run_to_what_it_says(
    name: str, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = BEFORE / name / "before/config.yaml"
    assert main(["fit", "--config", str(config), "--print_config"]) == 0
    resolved, written = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(config.read_text())
    assert class_paths(resolved) == class_paths(written)
    for key in ("model", "data", "network", "retention", "seed_everything"):
        now, then = resolved[key], written[key]
        if isinstance(then, dict):  # a later version may have more arguments, each with a default
            now, then = ({k: v.get("init_args", {}).get(k) for k in then["init_args"]} for v in (now, then))
        assert now == then, key


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_fit_of_the_config_of_a_run_gives_its_numbers(name: str, inputs: Path) -> None:
    again = ["--config", str(BEFORE / name / "before/config.yaml"), "--runs_dir", "again", "--run_id", "now"]
    expected = record(f"{name}/before")
    if "solved" not in expected:
        again += ["--model.init_args.optimizer_args.fused", "false"]  # the kernel that these runs had
    assert main(["fit", *again, "--wandb", "disabled"]) == 0
    found = load(inputs / "again" / name / "now").record
    for key in ("metrics", "n", "selected", "parameters"):
        same(found[key], expected[key], solved="solved" in expected)
    same(found.get("test", {}), expected.get("test", {}), solved="solved" in expected)
    for key in ("teacher_hash", "steps", "epochs", "layers", "data", "retention"):
        assert values(found.get(key)) == values(expected.get(key)), key


def test_the_points_of_a_study_have_the_addresses_they_had(tmp_path: Path) -> None:
    file = tmp_path / "small-study.yaml"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    study = read_study(file)
    plan = Plan(study, resolve)
    seeds = list(range(study.seeds)) if isinstance(study.seeds, int) else list(study.seeds)
    ids = {p.id for arm in study.arms for cell in study.cells for p in plan.tuning(arm, cell, seeds)}
    assert sorted(ids) == POINTS


def test_a_finished_study_is_found_finished_and_its_table_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "small-study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    folder = tmp_path / "runs/small-study"
    shutil.copytree(BEFORE / "small-study", folder)
    where = ["--config", str(tmp_path / "small-study.yaml"), "--runs_dir", str(tmp_path / "runs"), "--workers", "1"]
    assert main(["ablate", *where, "--quiet"]) == 0
    assert not list(folder.glob("logs/*")), "a point was computed again"
    assert (folder / "points.csv").read_text() == (BEFORE / "small-study/points.csv").read_text()
    found, expected = (json.loads((p / "study.json").read_text()) for p in (folder, BEFORE / "small-study"))
    assert values(found["cells"]) == values(expected["cells"]) and found["status"] == "finished"


@pytest.mark.parametrize("path", sorted(WRITTEN))
def test_a_class_path_written_then_names_a_class(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert isinstance(getattr(import_module(module), name), type)


@pytest.mark.parametrize(
    ("package", "name"),
    [(package, name) for package, names in json.loads((BEFORE / "names.json").read_text()).items() for name in names],
)
def test_a_public_name_is_still_there(package: str, name: str) -> None:
    assert hasattr(import_module(package), name)


def test_the_fixtures_say_nothing_of_the_machine_they_were_made_on() -> None:
    for file in filter(Path.is_file, BEFORE.rglob("*")):
        text = file.read_text()
        for told in ("/tmp", "/home", "/root", "/work", "/usr", "/Users", "hostname"):
            assert told not in text, f"{file}: {told}"
