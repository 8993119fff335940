"""Every family of networks is trained in parts as it is whole."""

from typing import Any

import pytest
import torch

from tests.exactness.two_processes import Together
from tests.sharding.families import FAMILIES, prepare

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    root = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        prepare(family, root)
    jobs = [("family", family, strategy) for family in FAMILIES for strategy in ("ddp", "fsdp2")]
    return Together(root, tmp_path_factory.mktemp("together"), jobs)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_with_parts_train_what_two_with_all_do(together: Any, family: str) -> None:
    """Rank by rank: statistics of BatchNorm are each rank's own until the next step begins."""
    for ddp, sharded in zip(*(together("family", family, strategy) for strategy in ("ddp", "fsdp2")), strict=True):
        assert sharded.keys() == ddp.keys()
        for name, value in ddp.items():
            same = torch.allclose(sharded[name].double(), value.double(), rtol=1e-6, atol=1e-8)
            assert same, f"{name} is not DDP's: off by {(sharded[name] - value).abs().max():.1e}"
