"""Shows the values of a training step, and of a validation or test, to callbacks and loggers."""

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule, Trainer


def show(trainer: Trainer, values: Mapping[str, float], device: torch.device | None = None) -> None:
    """Puts values into `trainer.callback_metrics`, where `LightningModule.log` would put them.

    They stay there until they are shown again. `log` also keeps sums for an epoch's mean, which nobody reads here, and copies
    its own description of each value each time: more than a small network's forward pass.
    """
    dtype = torch.get_default_dtype()
    trainer.callback_metrics.update({n: torch.tensor(v, dtype=dtype, device=device) for n, v in values.items()})


def log_measured(module: LightningModule, values: Mapping[str, float]) -> None:
    """Logs the values of a whole validation or test, as `log_dict` does when its epoch ends, with the same bits.

    `log_dict` makes a metric object for each value, moves and copies it: for thirty values that takes longer than measuring
    a small network. Where Lightning's loop keeps no outputs to add to, it is called.
    """
    trainer = module.trainer
    outputs = getattr(trainer._evaluation_loop, "_logged_outputs", None)
    if trainer.sanity_checking or not isinstance(outputs, list) or not outputs:
        module.log_dict(dict(values))
        return
    show(trainer, values, module.device)
    outputs[-1].update({name: trainer.callback_metrics[name] for name in values})
