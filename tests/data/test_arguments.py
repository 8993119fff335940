"""Arguments of data modules: values out of range are refused by name, from Python as from the command line."""

from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device

from sft_lightning.core.structures import Rows
from sft_lightning.data import Digits
from sft_lightning.data.arguments import Range
from sft_lightning.data.base import DATA_MODULES, SFTDataModule, Splits
from tests.refused import refused

HUB_OR_FILES = [
    *("TextTable", "MultiLabelTable", "MultipleChoice", "SQuAD"),
    *("TextPairs", "PlainText", "Instructions", "TaggedTable"),
]


@pytest.mark.parametrize(
    ("name", "wrong", "taken"),
    [
        ("batch_size", [0, -1, True, "8"], [1, np.int64(4)]),
        ("eval_batch_size", [0], [1, None]),
        ("shots_per_class", [0], [1, None]),
        ("train_fraction", [0.0, 1.5, float("nan")], [0.01, 1, 1.0, None]),
        ("subset_seed", [-1, 2**32], [0, 2**32 - 1]),
        ("seed", [-1, 2**32], [0, None]),
        ("folds", [1], [2, None]),
        ("test_fraction", [0, 1], [0.5, None]),
        ("val_fraction", [0.0, 1.0], [0.5]),
        ("num_workers", [-1, 1025], [0, 1024]),
        ("on_bad_sample", ["ignore"], ["skip"]),
        ("image_size", [0, 16385], [1, None]),
        ("augment", [["crop", "mixup"]], [["crop"], [], None]),
        ("crop_padding", [-1], [0]),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(name: str, wrong: list[Any], taken: list[Any]) -> None:
    for value in wrong:
        with refused(f"data.{name}", value[-1] if isinstance(value, list) else value):
            Digits(**{name: value})
    for value in taken:
        Digits(**{name: value})


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Range(1), "at least 1"),
        (Range(0, 7), "0 to 7"),
        (Range(0, 1, open_below=True), "in (0, 1]"),
        (Range(0, 1, open_below=True, open_above=True), "in (0, 1)"),
    ],
)
def test_a_range_is_written_as_it_is_meant(limits: Range, said: str) -> None:
    assert repr(limits) == said


@pytest.mark.parametrize("name", HUB_OR_FILES)
def test_files_beside_a_hub_data_set_and_a_configuration_without_one_are_refused(name: str) -> None:
    """They were silently not read: the hub's own splits are taken, and files have no configurations."""
    made = DATA_MODULES.find(name)
    with refused("data.config", "no effect"):
        made(train="a.jsonl", config="b")
    for split in ("val", "test"):
        with refused(f"data.{split}", "no effect"):
            made(path="a/b", **{split: "c.jsonl"})
    made(path="a/b", config="b")


def test_a_data_module_with_methods_of_an_earlier_version_is_refused() -> None:
    with pytest.raises(TypeError, match=r"bind\b.* settle\b"):

        class Old(SFTDataModule):
            def load(self) -> Splits:
                raise NotImplementedError

            def bind(self, network: object) -> None:
                """As of an earlier version."""


def test_lightning_leaves_the_row_numbers_of_a_batch_alone() -> None:
    rows = Rows(range(3))
    moved = move_data_to_device({"rows": rows, "x": torch.zeros(1)}, torch.device("cpu"))
    assert moved["rows"] is rows, "each element is walked, each step"
    assert list(rows) == [0, 1, 2] and rows == [0, 1, 2] and np.asarray(rows).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"batch_size": 7, "fold": 1, "folds": 3}, True),
        ({"on_bad_sample": "skip"}, False),
        ({"augment": ["flip"]}, False),
    ],
)
def test_what_load_depends_on_leaves_out_how_samples_are_chosen(settings: dict[str, Any], same: bool) -> None:
    one, other = Digits(), Digits(**settings)
    one.setup()  # what a run does to a module is no part of it
    assert (one.loads_from() == other.loads_from()) == same
