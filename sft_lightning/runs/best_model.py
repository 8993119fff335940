"""Exports the best model as a folder that `pretrained:` and other tools can read."""

import shutil
from pathlib import Path

import torch

from sft_lightning.modules.base import SFTModule
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import build_network
from sft_lightning.networks.transforms import apply_transforms
from sft_lightning.sharding.tensors import is_sharded


def export_best(module: SFTModule, checkpoint: Path, folder: Path) -> None:
    """Loads a checkpoint's weights into the module and writes its network with the kept source head, without the teacher."""
    network = module.network
    assert network is not None
    if any(is_sharded(p) for p in network.parameters()):
        network = whole_network(module, checkpoint)
    else:
        state = torch.load(checkpoint, map_location=module.device, weights_only=True)["state_dict"]
        module.load_state_dict(state)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    network.save_pretrained(str(temporary))
    for file in temporary.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def whole_network(module: SFTModule, checkpoint: Path) -> Network:
    """Builds the whole network in this process's memory, for training in which each rank holds a part."""
    assert module.network is not None and module.info is not None
    network = build_network(module.hparams["network"], module.info)
    apply_transforms(network)
    network.settle(module.network.input_view)
    held = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    state = {n.removeprefix("network."): t for n, t in held.items() if n.startswith("network.")}
    for name, parameter in network.named_parameters():
        parameter.data = parameter.data.to(state[name].dtype)
    network.load_state_dict(state)
    return network
