"""A network in parts: its checkpoints are those of any other run, and it goes on from them bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.survival.snapshots import difference, outcome
from tests.survival.test_ranks import FIT, launch, said
from tests.survival.zygote import Zygote

SHARDED = tuple("fsdp2" if a == "ddp" else a for a in FIT)
ALONE = (*FIT, "--trainer.strategy", "auto", "--trainer.devices", 1)


def together(zygote: Zygote, folder: Path, *arguments: object) -> None:
    codes = [zygote.wait(pid) for pid in launch(zygote, folder, *arguments)]
    assert codes == [0, 0], said(folder)


def stopped_at_step(step: int, zygote: Zygote, folder: Path, *arguments: object) -> None:
    """By a signal to the first rank; the second learns of it."""
    callback = {"class_path": "tests.survival.stops.SignalAt", "init_args": {"at": step}}
    (folder / "stop.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    codes = [zygote.wait(pid) for pid in launch(zygote, folder, *arguments, "--config", folder / "stop.yaml")]
    assert codes == [143, 0], said(folder)


@pytest.fixture(scope="module")
def runs(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same fit by DDP and in parts."""
    folder = tmp_path_factory.mktemp("sharded")
    together(zygote, folder, *FIT, "--run_id", "ddp")
    together(zygote, folder, *SHARDED, "--run_id", "parts")
    return {name: folder / "runs/x" / name for name in ("ddp", "parts")}


def far(one: Any, other: Any, path: str = "") -> str | None:
    """Where two outcomes are not the same but for rounding, or None."""
    if isinstance(one, torch.Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype
        return None if same and torch.allclose(one, other, rtol=1e-4, atol=1e-6) else f"{path}: {one} and {other}"
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"{path}: {list(one)} and {list(other)}"
        return next((w for k in one if (w := far(one[k], other[k], f"{path}.{k}")) is not None), None)
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return next((w for i, (a, b) in pairs if (w := far(a, b, f"{path}.{i}")) is not None), None)
    same = one == pytest.approx(other, rel=1e-4, abs=1e-5) if isinstance(one, float) else one == other
    return None if same else f"{path}: {one} and {other}"


def test_a_checkpoint_is_as_without_sharding(runs: dict[str, Path]) -> None:
    """Weights, averaged ones, the optimizer's state under the same numbers, history and record."""
    held = {name: torch.load(run / "checkpoints/last.ckpt", weights_only=True) for name, run in runs.items()}
    assert held["parts"].keys() == held["ddp"].keys()
    assert far(outcome(runs["ddp"]), outcome(runs["parts"])) is None


def test_an_export_is_as_without_sharding(runs: dict[str, Path]) -> None:
    ddp, parts = (runs[name] / "model" for name in ("ddp", "parts"))
    assert sorted(f.name for f in parts.iterdir()) == sorted(f.name for f in ddp.iterdir())
    assert (parts / "config.json").read_text() == (ddp / "config.json").read_text()
    assert far(load_file(ddp / "model.safetensors"), load_file(parts / "model.safetensors")) is None


def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_been(
    zygote: Zygote, runs: dict[str, Path], tmp_path: Path
) -> None:
    again = (*SHARDED, "--run_id", "again", "--ckpt_path", "last")
    stopped_at_step(7, zygote, tmp_path, *again)
    together(zygote, tmp_path, *again)
    assert difference(outcome(runs["parts"]), outcome(tmp_path / "runs/x/again")) is None


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(SHARDED, ALONE), (FIT, SHARDED)])
def test_a_run_may_go_on_with_another_strategy(
    zygote: Zygote, runs: dict[str, Path], tmp_path: Path, first: tuple[object, ...], then: tuple[object, ...]
) -> None:
    """Without dropout, which draws other numbers in another split of the work."""
    whole, name = ("--network.init_args.dropout", 0.0), ("--run_id", "again", "--ckpt_path", "last")
    together(zygote, tmp_path, *FIT, *whole, "--run_id", "whole")
    stopped_at_step(7, zygote, tmp_path, *first, *whole, *name)
    if then is ALONE:
        pid = zygote.spawn([*then, *whole, *name], tmp_path / "out-0", {"SFT_RUNS_DIR": str(tmp_path / "runs")})
        assert zygote.wait(pid) == 0, said(tmp_path)
    else:
        together(zygote, tmp_path, *then, *whole, *name)
    one, other = (outcome(tmp_path / "runs/x" / n) for n in ("whole", "again"))
    for what in ("weights", "raw weights", "optimizer", "schedule", "best weights", "record"):
        assert far(one[what], other[what], what) is None
