"""The network that ships is what its YAML makes."""

from pathlib import Path

import torch
from safetensors.torch import load_file

import sft_lightning
from tests.cli.conftest import Command

SHIPPED = Path(sft_lightning.__file__).parent / "assets/digits-0-4/model.safetensors"


def test_the_shipped_network_is_rebuilt_from_its_yaml(command: Command) -> None:
    done = command("fit", "--config", "experiments/digits/pretrain.yaml", "--wandb", "disabled")
    assert done.code == 0, done.err
    ours, shipped = load_file(done.run.files.model / "model.safetensors"), load_file(SHIPPED)
    assert ours.keys() == shipped.keys()
    for name in shipped:
        torch.testing.assert_close(ours[name], shipped[name], rtol=1e-2, atol=1e-3, msg=f"{name} came out otherwise")
    assert SHIPPED.stat().st_size < 72_000
