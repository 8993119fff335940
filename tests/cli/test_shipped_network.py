"""The networks that ship are what their YAML makes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sft_lightning
from tests.cli.conftest import Command

ASSETS = Path(sft_lightning.__file__).parent / "assets"
SHIPPED = {
    "digits-0-4": "experiments/digits/pretrain.yaml",
    "digits-shape": "experiments/coloured_digits/pretrain.yaml",
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_network_is_rebuilt_from_its_yaml(name: str, command: Command) -> None:
    done = command("fit", "--config", SHIPPED[name], "--wandb", "disabled")
    assert done.code == 0, done.err
    file = ASSETS / name / "model.safetensors"
    ours, shipped = load_file(done.run.files.model / "model.safetensors"), load_file(file)
    assert ours.keys() == shipped.keys()
    for key in shipped:
        torch.testing.assert_close(ours[key], shipped[key], rtol=1e-2, atol=1e-3, msg=f"{key} came out otherwise")
    assert (done.run.files.model / "config.json").read_text() == (ASSETS / name / "config.json").read_text()
    assert file.stat().st_size < 100_000


def test_every_network_that_ships_is_rebuilt_here() -> None:
    assert {file.parent.name for file in ASSETS.glob("*/config.json")} == set(SHIPPED)
