"""The best model as a folder that `pretrained:` and other tools read."""

import shutil
from pathlib import Path

import torch

from sft_lightning.modules.base import SFTModule


def export_best(module: SFTModule, checkpoint: Path, folder: Path) -> None:
    """Loads the weights of a checkpoint into the module and writes its network: no teacher, no source head."""
    assert module.network is not None
    state = torch.load(checkpoint, map_location=module.device, weights_only=True)["state_dict"]
    module.load_state_dict(state)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    module.network.save_pretrained(str(temporary))
    for file in temporary.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
