"""Shows the values of a training step to callbacks."""

from collections.abc import Mapping

import torch
from lightning.pytorch import Trainer


def show(trainer: Trainer, values: Mapping[str, float], device: torch.device | None = None) -> None:
    """Puts values into `trainer.callback_metrics`, where `LightningModule.log` would put them.

    They stay there until they are shown again. `log` also keeps sums for an epoch's mean, which nobody reads here, and copies
    its own description of each value each time: more than a small network's forward pass.
    """
    dtype = torch.get_default_dtype()
    trainer.callback_metrics.update({n: torch.tensor(v, dtype=dtype, device=device) for n, v in values.items()})
