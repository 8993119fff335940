"""`trainer.strategy: fsdp2`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
    StrategyRegistry,
)
from torch import Tensor
from torch.distributed.constants import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.optim import Optimizer

from sft_lightning.core.errors import UserError
from sft_lightning.sharding.split import batchnorms
from sft_lightning.sharding.tensors import gathered, part_of

WHOLE_TENSORS = ("Adafactor", "LBFGS", "Rprop")
"""Optimizers of torch whose step fails on parts"""


class FSDP2(ModelParallelStrategy):
    """Fully sharded data parallelism (Zhao et al. 2023; torch's fully_shard): ranks share the work as in DDP, and each
    holds its part of every parameter of student and teacher, of gradients and of the optimizer's state.

    What is computed is what DDP computes, gradient for gradient. Checkpoints are those of every other strategy: whole
    tensors in one file, from which any number of ranks goes on. They pass through the first rank's memory.
    """

    strategy_name = "fsdp2"

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise UserError("trainer.precision", "16-mixed scales gradients, which fsdp2 does not", "use bf16-mixed")
        for loop in (trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
            loop.inference_mode = False  # parts that were gathered in it cannot be changed outside
        super().setup(trainer)
        for optimizer in self.optimizers:
            if type(optimizer).__name__ in WHOLE_TENSORS:
                raise UserError(
                    "model.optimizer",
                    f"{type(optimizer).__name__} needs whole tensors, of which fsdp2 leaves each rank a part",
                    "use another, such as AdamW, or trainer.strategy ddp",
                )
        assert self.lightning_module is not None
        if self.precision.param_dtype is not None and batchnorms(self.lightning_module):
            raise UserError(
                "trainer.precision", "bf16-mixed and fsdp2 cannot train BatchNorm", "use 32-true, or strategy ddp"
            )

    @property
    def mesh(self) -> DeviceMesh:
        """The ranks, as one line of parts."""
        return self.device_mesh["data_parallel"]

    @property
    def precision(self) -> MixedPrecisionPolicy:
        """With bf16-mixed, parameters are gathered in bfloat16: autocast would keep a copy of each until it is used backward.
        Gradients are summed, and weights stepped, in single precision.
        """
        if self.precision_plugin.precision != "bf16-mixed":
            return MixedPrecisionPolicy()
        low, single = torch.bfloat16, torch.float32
        return MixedPrecisionPolicy(param_dtype=low, reduce_dtype=single, output_dtype=single)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One rank of a node after another: each makes a network whole before it keeps its part, and a node's memory is to
        hold one at a time.
        """
        for _ in range(self.local_rank):
            self.barrier()
        yield
        for _ in range(self.local_rank, self.num_processes):
            self.barrier()

    def check_same(self, start: str) -> None:
        """Ranks keep parts of what each made whole, so all must have made the same."""
        starts: list[Any] = [None] * self.world_size
        dist.all_gather_object(starts, start)
        if len(set(starts)) != 1:
            raise RuntimeError(f"ranks start from different weights: {starts}")

    # ---- checkpoints ----

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Parts are made when the module is configured, before a checkpoint is read."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's tensors, whole, on the first rank; one that has two names is one under both."""
        assert self.lightning_module is not None
        known: dict[int, Any] = {}
        found = {}
        for name, tensor in self.lightning_module.state_dict(keep_vars=True).items():
            if id(tensor) not in known:
                known[id(tensor)] = all_of(tensor)
            found[name] = known[id(tensor)]
        return found

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As `optimizer.state_dict()` without sharding, on the first rank."""
        held = (optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer).state_dict()
        state = {i: {k: all_of(v) for k, v in values.items()} for i, values in held["state"].items()}
        return {**held, "state": state}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Mapped from the file, of which each rank reads its parts alone."""
        held: dict[str, Any] = torch.load(checkpoint_path, map_location="cpu", weights_only=weights_only, mmap=True)
        return held

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each rank takes its parts."""
        assert self.lightning_module is not None
        mine = self.lightning_module.state_dict()
        held = checkpoint["state_dict"]
        parts = {n: part_of(t, mine[n]) if n in mine else t for n, t in held.items()}
        self.lightning_module.load_state_dict(parts, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each rank takes its parts."""
        for optimizer, held in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            numbers = [i for group in held["param_groups"] for i in group["params"]]
            mine = dict(zip(numbers, (p for g in optimizer.param_groups for p in g["params"]), strict=False))
            state = {i: {k: part(v, mine.get(i)) for k, v in values.items()} for i, values in held["state"].items()}
            optimizer.load_state_dict({**held, "state": state})


def all_of(value: Any) -> Any:
    """Tensors are gathered, other values are what they are."""
    return gathered(value) if isinstance(value, Tensor) else value


def part(value: Any, like: Any) -> Any:
    """Of the optimizer's state, tensors of a parameter's shape are split as it is."""
    return part_of(value, like) if isinstance(value, Tensor) else value


def check_strategy(strategy: Strategy | None) -> None:
    """Raises UserError for strategies under which parameters are not what anchors take them for."""
    flat = isinstance(strategy, FSDPStrategy | DeepSpeedStrategy)
    if flat or (isinstance(strategy, ModelParallelStrategy) and not isinstance(strategy, FSDP2)):
        raise UserError(
            "trainer.strategy", f"anchors do not know the parameters of {type(strategy).__name__}", "use fsdp2, or ddp"
        )


StrategyRegistry.register(
    FSDP2.strategy_name, FSDP2, description="Fully sharded data parallelism, by torch's fully_shard"
)
