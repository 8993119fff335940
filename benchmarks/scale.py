"""What a rank holds and sends, by strategy and variant: the arithmetic of docs/clusters.md, counted.

    python -m benchmarks.scale [--ranks 2] [--out benchmarks/results/scale.json]

A small ViT is tuned for three steps on as many gloo processes. Held is every tensor's memory after a step: weights, gradients,
the optimizer's state, the teacher. Sent are the bytes handed to collectives in the third step, which logs nothing. Both are
given per parameter, so that they hold for any size.
"""

import argparse
import json
import os
import platform
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import Digits
from sft_lightning.modules import L2SPSFT, DistillSFT, PlainSFT, SFTModule
from sft_lightning.networks import TransformersImage, build_network, spec
from sft_lightning.runs.record import git_state
from sft_lightning.sharding.tensors import local

VIT = {
    "model_type": "vit", "hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
VARIANTS: dict[str, tuple[type[SFTModule], dict[str, Any]]] = {
    "plain": (PlainSFT, {}),
    "l2sp": (L2SPSFT, {}),
    "distill": (DistillSFT, {"on": "features"}),
}
STEP = 2  # the third


class Sent:
    """Bytes given to each collective while `on`."""

    def __init__(self) -> None:
        self.on, self.bytes = False, dict[str, int]()
        self.watch("all_reduce", 0, "tensor")
        self.watch("all_gather_single", 0, "output")
        self.watch("reduce_scatter_single", 1, "input")

    def watch(self, name: str, place: int, argument: str) -> None:
        """The argument is the whole tensor: what a gather fills, what a reduction begins with."""
        original = getattr(dist, name)

        def counted(*given: Any, **named: Any) -> Any:
            self.add(name, named[argument] if argument in named else given[place])
            return original(*given, **named)

        setattr(dist, name, counted)

    def add(self, name: str, tensor: Tensor) -> None:
        if self.on:
            self.bytes[name] = self.bytes.get(name, 0) + tensor.numel() * tensor.element_size()


class Measure(Callback):
    """At the third optimizer step: what is held after it, what was sent in it."""

    def __init__(self, sent: Sent) -> None:
        self.sent, self.held = sent, dict[str, int]()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            trainer.strategy.model.register_comm_hook(None, allreduce_hook)  # DDP's own averaging, where it is seen

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.sent.on, self.sent.bytes = batch_idx == STEP, {}

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """The last step's gradients are still there."""
        assert isinstance(pl_module, SFTModule) and pl_module.network is not None and pl_module.teacher is not None
        parameters = list(pl_module.network.parameters())
        self.held = {
            "weights": held(parameters),
            "gradients": held(p.grad for p in parameters if p.grad is not None),
            "optimizer": held(v for s in optimizer.state.values() for v in s.values() if v.ndim),
            "teacher": held(pl_module.teacher.network.parameters()),
        }

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        self.sent.on = False


def held(tensors: Any) -> int:
    """Bytes of memory behind tensors, each memory once."""
    memory = {s.data_ptr(): s.nbytes() for t in tensors if (s := local(t).untyped_storage()).nbytes()}
    return sum(memory.values())


def work(rank: int, ranks: int, port: int, folder: str, queue: Any) -> None:
    torch.set_num_threads(1)
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": ranks, "NODE_RANK": 0, "LOCAL_RANK": rank}
    os.environ |= {name: str(value) for name, value in where.items()}
    sent, found = Sent(), {}
    for strategy in ("ddp", "fsdp2"):
        for name, (variant, arguments) in VARIANTS.items():
            torch.manual_seed(0)
            module = variant(spec(TransformersImage, pretrained=folder), **arguments)
            measure = Measure(sent)
            trainer = Trainer(
                accelerator="cpu", devices=ranks, strategy=strategy, max_steps=STEP + 1, limit_val_batches=0,
                logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                log_every_n_steps=1000, callbacks=[measure],
            )  # fmt: skip
            trainer.fit(module, Digits(batch_size=16, shots_per_class=20))
            assert module.network is not None
            count = sum(p.numel() for p in module.network.parameters())
            per = {k: round(v / count, 3) for k, v in measure.held.items()}
            found[f"{strategy} {name}"] = {
                "held": {**per, "together": round(sum(measure.held.values()) / count, 3)},
                "sent": {k: round(v / count, 4) for k, v in sent.bytes.items()},
            }
    if rank == 0:
        queue.put((count, found))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with socket.socket() as free, tempfile.TemporaryDirectory(prefix="scale-") as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        task = TaskInfo("classification", 10, [str(n) for n in range(10)])
        build_network(spec(TransformersImage, config=VIT), task).save_pretrained(folder)
        context = torch.multiprocessing.get_context("fork")
        queue = context.Queue()
        torch.multiprocessing.start_processes(
            work, (given.ranks, port, folder, queue), given.ranks, start_method="fork"
        )
        count, found = queue.get()
    print(f"{count:,} parameters, {given.ranks} ranks; bytes per parameter of one rank")
    for name, numbers in found.items():
        print(f"{name:14}", *(f"{what}: {values}" for what, values in numbers.items()))
    if given.out is not None:
        about = {
            "benchmark": "scale", "date": time.strftime("%Y-%m-%d"), "device": f"CPU, {platform.machine()}",
            "command": f"python -m benchmarks.scale --ranks {given.ranks}", "git": git_state(), "torch": torch.__version__,
        }  # fmt: skip
        given.out.write_text(
            json.dumps({**about, "parameters": count, "ranks": given.ranks, "found": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    sys.exit(main())
