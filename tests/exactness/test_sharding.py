"""Parameters in parts: what two processes do beyond single steps is what they do with all of them."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

BOUNDS = {"norms": 1e-6, "stages": 1e-6}


def check_same(found: Mapping[str, Any], expected: Mapping[str, Any], bound: float) -> None:
    """Every tensor has the other's type, and its values but for rounding."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, Mapping):
            check_same(found[name], value, bound)
        elif isinstance(value, torch.Tensor):
            mine = found[name]
            assert mine.dtype == value.dtype, f"{name} is {mine.dtype}, with DDP {value.dtype}"
            off = float((mine.double() - value.double()).norm() / value.double().norm().clamp(min=1e-3))
            assert off <= bound, f"{name} is off by {off:.1e} from DDP's"
        else:
            assert found[name] == value, name


def test_statistics_of_batchnorm_are_the_first_ranks_as_in_ddp(together: Any) -> None:
    ddp, sharded = together("norms", "ddp"), together("norms", "fsdp2")
    start = torch.zeros(24, dtype=torch.float64)
    assert not torch.equal(sharded[0]["encoder.2.running_mean"], start), "no statistics have moved"
    check_same(sharded[0], ddp[0], BOUNDS["norms"])


def test_fitting_goes_on_after_validating_testing_and_predicting(together: Any) -> None:
    for sharded, ddp in zip(together("stages", "fsdp2"), together("stages", "ddp"), strict=True):
        check_same(sharded, ddp, BOUNDS["stages"])


def test_mixed_precision_trains_the_same_and_keeps_no_copy_of_the_weights(together: Any) -> None:
    """Autocast alone keeps each weight in bfloat16 until its backward pass: 2 bytes a parameter on each rank."""
    exact = together("mixed", "ddp", "32-true")[0]
    for sharded, ddp in zip(together("mixed", "fsdp2"), together("mixed", "ddp"), strict=True):
        copies, none = float(ddp.pop("kept")), float(sharded.pop("kept"))
        assert copies > 1.0, f"autocast keeps {copies} bytes a parameter, so that nothing is tested"
        assert none < 0.1, f"{none} bytes a parameter are kept for the backward pass"
        off, usual = (float(sum((w[n] - exact[n]).square().sum() for n in w)) ** 0.5 for w in (sharded, ddp))
        assert 0 < off < 2 * usual, f"off by {off:.1e} from single precision, where autocast is by {usual:.1e}"


def saved_alike(results: Any, precision: str) -> None:
    (sharded, _), (ddp, _) = (results("saved", strategy, precision) for strategy in ("fsdp2", "ddp"))
    for found in (sharded, ddp):
        assert found["one under two names"], "a tied tensor is written twice"
        head, tied = (found["state"][f"network.{n}"] for n in ("head.weight", "encoder.wte.weight"))
        assert torch.equal(head, tied), "the average is written under one of a tied tensor's names alone"
    check_same(sharded, ddp, {"32-true": 1e-4, "64-true": 1e-6, "bf16-true": 5e-2}[precision])


def test_a_checkpoint_with_tied_tensors_and_averages_is_as_without_sharding(together: Any) -> None:
    saved_alike(together, "32-true")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_checkpoints_and_exports_keep_their_precision(together: Any, precision: str) -> None:
    saved_alike(together, precision)
