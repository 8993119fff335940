"""DDP's reducer, after the trainable set has changed."""

import gc

from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel


def renew_reducer(strategy: Strategy) -> None:
    """Wraps the module again where DDP does: its reducer waits for exactly the parameters that had a gradient when it was made.

    A parameter frozen since then would be waited for in vain, one thawed since then would differ between ranks. The old
    reducer goes first, and its hooks on parameters with it. FSDP2 needs nothing: it looks at `requires_grad` whenever it
    gathers a parameter. To be called on all ranks, between two optimizer steps.
    """
    if isinstance(strategy, DDPStrategy) and isinstance(strategy.model, DistributedDataParallel):
        strategy.model = strategy.lightning_module
        gc.collect()  # the old wrapper refers to itself
        strategy.configure_ddp()
