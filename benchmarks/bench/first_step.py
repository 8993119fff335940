"""Ends a process at its first training step, and says what it took until then. Used by `start.py` in processes of their own."""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from lightning.pytorch.callbacks import Callback

OUT = "BENCH_FIRST_STEP"
"""Environment variable: the file for the numbers"""


class FirstStep(Callback):
    """Writes CPU seconds, those of children included, and wall seconds since the process began; then ends it."""

    def on_train_batch_end(self, *given: Any) -> None:
        process, times = psutil.Process(), os.times()
        cpu, wall = sum(times[:4]), time.time() - process.create_time()
        children = process.children(recursive=True)
        for child in children:
            with suppress(psutil.Error):
                cpu += sum(child.cpu_times()[:2])
                child.kill()
        Path(os.environ[OUT]).write_text(json.dumps({"cpu": cpu, "wall": wall}))
        os._exit(0)


def script() -> None:
    """The bare Lightning script: digits, the same network, no logger, no checkpoint."""
    import numpy as np
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from sklearn.datasets import load_digits
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, TensorDataset

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.0)

    digits = load_digits()
    data = TensorDataset(torch.from_numpy(digits.data.astype(np.float32) / 16), torch.from_numpy(digits.target))
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, callbacks=[FirstStep()], **quiet)
    trainer.fit(Module(), DataLoader(data, batch_size=20, shuffle=True))


if __name__ == "__main__":
    sys.exit(script())
