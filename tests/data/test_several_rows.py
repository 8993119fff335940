"""A sample may have several rows of input: it is one item, or each position that it selects is one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sft_lightning.core.structures import Batch
from sft_lightning.data.sampler import Key
from sft_lightning.data.samples import Samples
from sft_lightning.data.split import Split

SELECT = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]]).bool()
KEYS = [Key(0, 0), Key(1, 0, real=False), Key(2, 0)]


class Rows(Samples):
    """Three samples of up to three rows of four tokens; `y` is what `fetch` adds."""

    def __init__(self, y: torch.Tensor | None, one_item_each: bool) -> None:
        self.targets, self.y, self.one_item_each = np.array([5, 6, 7]), y, one_item_each

    def __len__(self) -> int:
        return 3

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        x: dict[str, Any] = {"input_ids": torch.zeros(3, 3, 4), "select": SELECT}
        return x if self.y is None else {**x, "y": self.y}

    def digest(self) -> bytes:
        return b""


def batch_of(y: torch.Tensor | None, one_item_each: bool) -> Batch:
    samples = Rows(y, one_item_each)
    return Split(samples, np.arange(3), samples.targets, True).__getitems__(KEYS)


@pytest.mark.parametrize(
    ("y", "expected"), [(None, [5, 7]), (torch.tensor([[0, 1], [2, 3], [4, 5]]), [[0, 1], [4, 5]])]
)
def test_a_sample_that_is_one_item_counts_once_and_has_one_target(y: torch.Tensor | None, expected: list[Any]) -> None:
    batch = batch_of(y, one_item_each=True)
    assert batch["count"] == 2, "a filler counts, or rows of a sample do"
    assert batch["y"].tolist() == expected
    assert batch["select"].tolist() == [[True, True, False], [False] * 3, [True] * 3]


def test_otherwise_each_selected_position_is_an_item_in_any_number_of_dimensions() -> None:
    batch = batch_of(torch.arange(8), one_item_each=False)
    assert batch["count"] == 5
    assert batch["y"].tolist() == [0, 1, 5, 6, 7]
