"""Run as `python -m tests.modules.two_processes PRETRAINED OUT`: trains and measures on two gloo processes."""

import json
import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.modules import SFTModule
from tests.support import OLD, VARIANTS, FewDigits, fit, make, quiet_trainer, weights

ROWS = [1, 5, 21]
TWO: dict[str, Any] = {"strategy": "ddp", "devices": 2}


def train(variant: str, pretrained: str, accumulate: int, **settings: Any) -> SFTModule:
    """37 samples, 8 a step: the last step has 5, which two ranks share unevenly."""
    module = make(variant, pretrained, lr=1e-2)
    data = FewDigits((37, 5, 5), batch_size=8)
    fit(module, data, max_epochs=2, precision="64-true", accumulate_grad_batches=accumulate, **settings)
    return module


def measure(rows: int, pretrained: str, **settings: Any) -> dict[str, float]:
    """Validation metrics of a net that has moved, on `rows` target and `rows` source samples."""
    module = make("plain", pretrained, task={"name": "classification", "num_outputs": 5})
    torch.manual_seed(0)
    module.configure_model()
    with torch.no_grad():
        for parameter in module.network.encoder.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    monitor = RetentionMonitor(FewDigits((8, rows, rows), OLD, batch_size=4))
    trainer = quiet_trainer(callbacks=[monitor], precision="64-true", **settings)
    (values,) = trainer.validate(module, FewDigits((8, rows, rows), batch_size=4), verbose=False)
    return {k: float(v) for k, v in values.items()}


def work(rank: int, port: int, pretrained: str, out: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank)}
    for variant in VARIANTS:
        module = train(variant, pretrained, accumulate=2, **TWO)
        save_file(weights(module), Path(out) / f"{variant}-{rank}.safetensors")
    for rows in ROWS:
        values = measure(rows, pretrained, **TWO)
        if rank == 0:
            (Path(out) / f"metrics-{rows}.json").write_text(json.dumps(values))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    torch.multiprocessing.start_processes(work, (number, *sys.argv[1:3]), nprocs=2, start_method="fork")
