"""Unknown keys are refused before heavy imports: with the parser's message, and never a key that it accepts."""

from pathlib import Path

import pytest
import yaml
from jsonargparse._parameter_resolvers import get_signature_parameters

from sft_lightning.cli.fit import run
from sft_lightning.cli.names import FOLDERS, arguments_of, known_keys, refuse_unknown
from sft_lightning.config import parser_errors
from sft_lightning.config.parser import command_parser
from sft_lightning.config.resolve import keys_of
from sft_lightning.core.errors import UserError
from sft_lightning.data.base import DATA_MODULES
from sft_lightning.modules import VARIANTS
from sft_lightning.networks import NETWORKS

ROOT = Path(__file__).parents[2]
BASE = ["fit", "--config", str(ROOT / "experiments/digits/plain.yaml")]
REGISTERED = {"modules": VARIANTS, "networks": NETWORKS, "data": DATA_MODULES}


def said(work, arguments: list[str]) -> str:
    with pytest.raises(UserError) as error:
        work(arguments)
    return str(error.value)


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.init_args.learning_rate", "1"],
        ["--model.lerning_rate=1"],
        ["--network.hiden", "1"],
        ["--data.init_args.batchsize", "4"],
        ["--retention.batch_sizes", "4"],
        ["--lr", "1"],
        ["--exprement", "x"],
        ["--foo.bar", "1"],
        ["--trainer.max_epoch_", "1"],
        ["--trainer.lr=1", "--lr", "2"],
    ],
    ids=" ".join,
)
def test_flags_are_refused_in_the_parsers_words(flags: list[str], tmp_path: Path) -> None:
    arguments = [*BASE, *flags, "--runs_dir", str(tmp_path)]
    assert said(refuse_unknown, arguments) == said(run, arguments)


@pytest.mark.parametrize(
    "content",
    [
        {"exprement": "x"},
        {"wandb_tag": ["x"]},
        {"foo": {"bar": 1}},
        {"trainer": {"max_epoch": 1}},
        {"model": {"init_args": {"learning_rate": 1}}},
        {"model": {"class_path": "PlainSFT", "init_args": {"lr": 0.1, "learning_rate": 1}}},
        {"network": {"init_args": {"hiden": 1}}},
        {"data": {"init_args": {"foo": 1, "bar": 2}}},
        {"model.learning_rate": 1},
    ],
    ids=str,
)
def test_keys_of_a_file_are_refused_in_the_parsers_words(content: dict, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(content))
    arguments = [*BASE, "--config", str(tmp_path / "more.yaml"), "--runs_dir", str(tmp_path)]
    assert said(refuse_unknown, arguments) == said(run, arguments)


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.max_epoch", "1"],  # the parser completes it
        ["--run-id", "x"],
        ["--model", "L2SPSFT", "--model.beta", "1"],  # two classes: the parser drops what one does not take
        ["--model", "my_package.Mine", "--model.anything", "1"],
        ["--import", "my_package", "--lr", "1"],
        ["--run", "runs/x", "--lr", "1"],
        ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/loss"],
        ["--model.optimizer_args.foo", "1"],
        ["--model.dict_kwargs.foo", "1"],
        ["--model.help", "PlainSFT"],
    ],
    ids=" ".join,
)
def test_what_the_parser_may_accept_is_left_to_it(flags: list[str]) -> None:
    refuse_unknown([*BASE, *flags])


def test_a_command_without_options_is_left_to_the_parser() -> None:
    refuse_unknown(["fit"])
    refuse_unknown(["fit", "--config"])


def test_no_config_that_ships_is_refused() -> None:
    files = [f for f in sorted((ROOT / "experiments").rglob("*.yaml")) if "\nnetwork:" in f.read_text()]
    assert len(files) > 30
    for file in files:
        refuse_unknown(["fit", "--config", str(file)])


def test_the_known_keys_are_those_of_the_parsers() -> None:
    parsers = [command_parser(command)[0] for command in ("fit", "validate", "test", "predict")]
    assert known_keys() == keys_of(*parsers)


@pytest.mark.parametrize("folder", dict.fromkeys(FOLDERS.values()))
def test_arguments_read_from_the_source_are_those_of_the_class(folder: str) -> None:
    ours = {n: c for n, c in REGISTERED[folder].items() if c.__module__.startswith("sft_lightning.")}
    judged = {name: arguments_of(folder, name) for name in ours}
    for name, found in judged.items():
        path = f"{ours[name].__module__}.{ours[name].__qualname__}"
        assert found is None or set(found) == set(parser_errors.arguments_of(path)), name
        assert {p.name for p in get_signature_parameters(ours[name])} <= set(found or ()), (
            f"{name}: the parser takes more"
        )
    assert sum(found is not None for found in judged.values()) == len(ours)
