"""Layers given as mappings resolve to what the same layers resolve to as files on the command line, one after the other."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_lightning.ablation.plan import Plan
from sft_lightning.ablation.study import read_study
from sft_lightning.config.files import check_yaml, named
from sft_lightning.config.resolve import joined, resolve, resolve_arguments
from sft_lightning.core.errors import UserError

ROOT = Path(__file__).parents[2]
Layer = dict[str, Any]
BASE: Layer = named(yaml.safe_load((ROOT / "experiments/digits/distill.yaml").read_text()))
STOPS = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/accuracy"}}


def model(**init_args: Any) -> Layer:
    return {"model": {"init_args": init_args}}


OVER_THE_BASE: dict[str, list[Layer]] = {
    "another class": [
        {"model": {"class_path": "L2SPSFT", "init_args": {"alpha": 0.1}}},
        {"model": {"class_path": "PlainSFT"}},
    ],
    "a class by its name": [{"model": "PlainSFT"}, model(lr=0.5)],
    "the class again": [
        model(anchor_weight=3),
        {"model": {"class_path": "PlainSFT"}},
        {"model": {"class_path": "DistillSFT"}},
    ],
    "another network": [{"network": {"class_path": "LeNet", "init_args": {"pretrained": None}}}],
    "arguments of another class": [
        {"data": {"class_path": "ColouredDigits"}},
        {"data": {"init_args": {"correlation": 0.5}}},
    ],
    "values over values": [
        model(lr="1e-3", warmup=3),
        model(lr=0.5),
        {"experiment": "a"},
        {"trainer": {"max_epochs": 2}},
    ],
    "a list replaced": [{"trainer": {"callbacks": [STOPS]}}, {"trainer": {"callbacks": [{"class_path": "Timer"}]}}],
    "a list added to": [{"wandb_tags+": ["a"]}, {"wandb_tags": ["b"]}, {"wandb_tags+": ["c"]}],
    "a mapping as a value": [model(optimizer_args={"eps": 1e-7}), model(optimizer_args={"betas": [0.9, 0.99]})],
    "a mapping taken back": [model(freeze={"bottom_layers": 1}), model(freeze=None)],
    "nothing in a block's place": [{"retention": None}],
    "arguments after nothing": [{"retention": None}, {"retention": {"init_args": {"batch_size": 3}}}],
    "a mode that follows": [{"trainer": {"callbacks": [STOPS]}}],
    "a dotted key": [{"model.init_args.lr": 0.5}],
    "an unknown key": [{"modle": {"lr": 1}}],
    "an unknown argument": [model(anchor_wieght=1)],
    "no number": [model(lr="abc")],
    "no choice": [model(lr_schedule="cosin")],
    "no class": [{"model": {"class_path": "Plain"}}],
    "no arguments": [{"model": {"init_args": [1]}}],
    "no trainer": [{"trainer": None}],
    "a key that is no text": [{1: 2}],  # type: ignore[dict-item]
}


def as_files(layers: list[Layer]) -> dict[str, Any]:
    """The same by the parser's own way to lay files over each other."""
    texts = [yaml.safe_dump(layer, sort_keys=False) for layer in layers if layer]
    return resolve_arguments([word for text in texts for word in ("--config", text)])


def outcome(of: Any, layers: list[Layer]) -> Any:
    try:
        return of(layers)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("case", OVER_THE_BASE)
def test_layers_resolve_as_files_do(case: str) -> None:
    layers = [BASE, *OVER_THE_BASE[case]]
    assert outcome(resolve, layers) == outcome(as_files, layers)


def test_text_that_looks_like_a_number_stays_text() -> None:
    """Written to a file and read back by YAML 1.2's rules it was a number: an experiment called 1e3 was refused."""
    assert resolve([BASE, {"experiment": "1e3"}])["experiment"] == "1e3"


@pytest.mark.parametrize("text", [",", "|", "#", "# a", "@a", "[EN] ", "{", "a: b", "'", "%"])
def test_text_that_is_no_yaml_by_itself_stays_text(text: str) -> None:
    """The parser reads a file's texts once more: a separator `,` in quotation marks was refused, and `#` was read as null."""
    data = {"class_path": "MultiLabelTable", "init_args": {"train": "a.csv", "label_separator": text}}
    layer = {**{k: v for k, v in BASE.items() if k != "retention"}, "data": data}
    for made in (resolve([layer]), as_files([layer])):
        assert made["data"]["init_args"]["label_separator"] == text


@pytest.mark.parametrize(
    "file",
    [
        "experiments/ablations/coloured-digits.yaml",
        pytest.param("experiments/ablations/digits.yaml", marks=pytest.mark.slow),
    ],
)
def test_points_of_a_study_resolve_as_files_do(file: str) -> None:
    check_yaml(ROOT / file)
    study = read_study(ROOT / file)
    assert Plan(study, resolve).check() == Plan(study, as_files).check()


def test_layers_are_left_as_they_were() -> None:
    layers = [deepcopy(BASE), {"trainer": {"callbacks": [deepcopy(STOPS)]}}, model(optimizer_args={"eps": 1e-7})]
    before = deepcopy(layers)
    resolve(layers)
    assert layers == before


def test_plain_values_cost_no_parse_of_their_own() -> None:
    assert len(joined([BASE, model(lr=1), {"experiment": "a"}, {}, {"trainer": {"max_epochs": 2}}])) == 1
    assert len(joined([BASE, {"model": {"class_path": "PlainSFT"}}, model(lr=1)])) == 2
    assert joined([]) == joined([{}]) == [{}]
