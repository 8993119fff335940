"""Points of a study that differ in numbers have the settings that the parser makes of each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from sft_lightning.cli.main import main
from sft_lightning.config.overrides import merged
from sft_lightning.config.parser import command_parser
from sft_lightning.config.read_once import ReadOnce, is_word
from sft_lightning.config.resolve import as_plain, resolve
from sft_lightning.core import cache, plain_yaml

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
EARLY = [
    {"model": {"init_args": {"lr": 0.003}}, "seed_everything": 0},
    {"model": {"init_args": {"lr": 0.1}}, "seed_everything": 7, "trainer": {"max_epochs": 3}},
    {"model": {"init_args": {"lr": 1e-05}}, "data": {"init_args": {"shots_per_class": 5}}},
    {"model": {"init_args": {"lr": 0.003, "optimizer_args": {"betas": [0.8, 0.99]}}}},
    {"network": {"init_args": {"hidden": [32, 64]}}},
    {"trainer": {"precision": "64-true"}},
]


@pytest.fixture
def on() -> Iterator[None]:
    cache.begin()
    yield
    cache.end()


def parsed(file: Path, name: str) -> tuple[ReadOnce, list[bool], Namespace, Namespace]:
    """What is read of a config, whether the parser was called, the settings, and those of the parser."""
    arguments = ["fit", "--config", str(file), "--experiment", "study", "--run_id", name, "--ckpt_path", "last"]
    parser, called = command_parser("fit")[0], list[bool]()

    def parse() -> Namespace:
        called.append(True)
        return Namespace(subcommand="fit", fit=parser.parse_args(arguments[1:]))

    read = ReadOnce(arguments)
    settings = read.parsed(parse)
    return read, called[:1], settings, Namespace(subcommand="fit", fit=parser.parse_args(arguments[1:]))


def alike(one: Any, other: Any) -> bool:
    """Equal, with the same types of all values."""
    if isinstance(one, Namespace) and isinstance(other, Namespace):
        return alike(vars(one), vars(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return type(one) is type(other) and (one == other or (str(one), repr(one)) == (str(other), repr(other)))


def test_settings_are_those_of_the_parser(tmp_path: Path, on: None) -> None:
    base = resolve([yaml.safe_load((EXPERIMENTS / "digits/l2sp.yaml").read_text())])
    called = []
    for at, change in enumerate(EARLY):
        file = tmp_path / f"{at}.yaml"
        file.write_text(yaml.safe_dump(merged(base, change), sort_keys=False))
        read, asked, settings, expected = parsed(file, f"a{at}")
        called.append(bool(asked))
        assert alike(settings, expected), f"{change} gives other settings"
        plain = read.plain(lambda expected=expected: as_plain(command_parser("fit")[0], expected.fit))
        assert alike(plain, as_plain(command_parser("fit")[0], expected.fit)), f"{change} gives another config.yaml"
    assert called == [True, False, False, True, True, True]


def test_what_is_handed_out_is_not_shared(tmp_path: Path, on: None) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(resolve([yaml.safe_load((EXPERIMENTS / "digits/plain.yaml").read_text())])))
    for _ in range(2):
        _, _, settings, expected = parsed(file, "a")
        assert alike(settings, expected)
        settings.fit.model.init_args.lr = "spoilt"
        settings.fit.trainer.max_epochs = None


def test_names_that_could_be_other_values_are_parsed(tmp_path: Path, on: None) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(resolve([yaml.safe_load((EXPERIMENTS / "digits/plain.yaml").read_text())])))
    for name in ("word", "1e5", "012345678901", "12", "null", "a: b"):
        _, called, settings, expected = parsed(file, name)
        assert alike(settings, expected), name
        assert called or name in ("1e5", "012345678901")


@pytest.mark.parametrize(("first", "second"), [("{1: 2.5}", "{'1': 2.5}"), ("2.5", "any float")])
def test_what_only_looks_alike_is_parsed(tmp_path: Path, on: None, first: str, second: str) -> None:
    called = []
    for text in (first, second):
        file = tmp_path / f"{len(called)}.yaml"
        file.write_text(f"model: {text}\n")
        read = ReadOnce(["fit", "--config", str(file), "--experiment", "study"])
        read.parsed(lambda text=text: called.append(text) or Namespace(subcommand="fit", fit=Namespace()))
    assert called == [first, second]


def test_only_a_studys_worker_does_it(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("model: {class_path: PlainSFT}")
    assert not ReadOnce(["fit", "--config", str(file), "--experiment", "a"])._key
    assert is_word("runs/a-b_1") and not is_word("12")


def test_configs_are_written_as_before_in_c() -> None:
    for file in sorted(EXPERIMENTS.glob("*/*.yaml")):
        content = plain_yaml.load_file(file)
        assert plain_yaml.dump(content) == yaml.safe_dump(content, sort_keys=False, allow_unicode=True), file
    odd = {
        "text": "ä " * 90 + ": #",
        "numbers": [1e-5, 1e16, -0.0, float("inf")],
        "none": None,
        "empty": [{}, ""],
        "on": True,
    }
    assert plain_yaml.load(plain_yaml.dump(odd)) == odd


def test_a_run_is_that_of_a_command_of_its_own(tmp_path: Path) -> None:
    base = {"trainer": {"max_epochs": 1, "accelerator": "cpu"}, "wandb": "disabled", "quiet": True}
    base = resolve([yaml.safe_load((EXPERIMENTS / "digits/plain.yaml").read_text()), base, {"test_after_fit": False}])
    for at in range(2):
        change = {"model": {"init_args": {"lr": 0.001 * (at + 1)}}, "seed_everything": at}
        (tmp_path / f"{at}.yaml").write_text(plain_yaml.dump(merged(base, change)))

    def run(at: int, root: str) -> tuple[str, dict[str, Any]]:
        place = ["--runs_dir", str(tmp_path / root), "--experiment", "study", "--run_id", f"p{at}"]
        assert main(["fit", "--config", str(tmp_path / f"{at}.yaml"), *place, "--ckpt_path", "last"]) == 0
        folder = tmp_path / root / "study" / f"p{at}"
        record = json.loads((folder / "run.json").read_text())
        for name in ("times", "command"):
            record.pop(name)
        return (folder / "config.yaml").read_text().replace(str(tmp_path / root), "ROOT"), record

    cache.begin()
    try:
        in_worker = [run(at, "worker") for at in range(2)]
        assert len(cache.CONFIGS._held) == 1
    finally:
        cache.end()
    assert in_worker[1] == run(1, "alone")
