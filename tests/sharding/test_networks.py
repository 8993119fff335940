"""Every family of networks is trained in parts as it is whole."""

from typing import Any

import pytest
import torch

from tests.exactness.two_processes import Together
from tests.sharding.families import FAMILIES, prepare
from tests.survival.zygote import Zygote

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Together:
    root = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        prepare(family, root)
    jobs = [("family", family, strategy) for family in FAMILIES for strategy in ("ddp", "fsdp2")]
    jobs += [("family", family, strategy, "bf16-mixed") for family in MIXED for strategy in ("ddp", "fsdp2")]
    return Together(root, tmp_path_factory.mktemp("together"), jobs, zygote)


MIXED = [family for family in FAMILIES if not family.startswith(("ResNet", "EfficientNet"))]


@pytest.mark.parametrize("family", MIXED)
def test_so_it_is_in_mixed_precision_but_for_its_rounding(together: Any, family: str) -> None:
    ddp, sharded = (together("family", family, strategy, "bf16-mixed")[0] for strategy in ("ddp", "fsdp2"))
    for name in ("val/loss", "train/loss"):
        assert float(sharded[name]) == pytest.approx(float(ddp[name]), rel=0.05), name


@pytest.mark.parametrize("family", FAMILIES)
def test_two_processes_with_parts_train_what_two_with_all_do(together: Any, family: str) -> None:
    """Rank by rank: statistics of BatchNorm are each rank's own until the next step begins."""
    for ddp, sharded in zip(*(together("family", family, strategy) for strategy in ("ddp", "fsdp2")), strict=True):
        assert sharded.keys() == ddp.keys()
        for name, value in ddp.items():
            same = torch.allclose(sharded[name].double(), value.double(), rtol=1e-6, atol=1e-8, equal_nan=True)
            assert same, f"{name} is not DDP's: off by {(sharded[name] - value).abs().max():.1e}"
