"""Times a fit's steps on a device: for `benchmarks.gpu`."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

import sft_lightning
from benchmarks.bench.results import say
from sft_lightning.modules import SFTModule

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
"""Dense bfloat16 operations per second, by a part of the card's name"""


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    layers: int = 12
    width: int = 768
    vocabulary: int = 30_000
    batch: int = 64
    longest: int = 256
    warm: int = 15
    steps: int = 60
    image: int = 224
    images: int = 4096
    image_batch: int = 128
    image_networks: tuple[str, ...] = ("vit_small_patch16_224", "resnet50")
    workers: int = 8


SMALL = Sizes(1, 32, 200, 4, 32, 1, 3, 32, 16, 4, ("resnet18",), 0)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Stopwatch(Callback):
    """Times the steps after the first few, and how long each waits for its batch on the host."""

    def __init__(self, warm: int, steps: int) -> None:
        self.warm, self.steps = warm, steps
        self.begun = self.ended = self.waited = self.samples = self.tokens = 0.0
        self.count, self._since = 0, 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.begun:
            self.waited += time.perf_counter() - self._since
            self.samples += len(batch["index"])
            mask = batch["x"].get("attention_mask")
            self.tokens += 0.0 if mask is None else float(mask.sum())

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        self.count += 1
        if self.count == self.warm:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            wait()
            self.begun = time.perf_counter()
        if self.count == self.warm + self.steps:
            wait()
            self.ended = time.perf_counter()
            trainer.should_stop = True
        self._since = time.perf_counter()

    def found(self, parameters: int) -> dict[str, float | None]:
        """Rates; a token takes 6 operations per weight of the encoder."""
        seconds = self.ended - self.begun
        peak = peak_operations()
        return {
            "ms_a_step": 1e3 * seconds / self.steps,
            "samples_per_s": self.samples / seconds,
            "tokens_per_s": self.tokens / seconds,
            "waits_for_data": self.waited / seconds,
            "mfu": 6 * parameters * self.tokens / seconds / peak if peak and self.tokens else None,
            "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None,
        }


def peak_operations() -> float | None:
    """Of this card; None if it is not known."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((value for part, value in PEAKS.items() if part in name), None)


def fit(module: SFTModule, data: Any, sizes: Sizes, place: Path) -> dict[str, float | None]:
    """Trains for the timed steps, without validations."""
    watch, gpu = Stopwatch(sizes.warm, sizes.steps), torch.cuda.is_available()
    with sft_lightning.run("gpu", runs_dir=str(place), wandb="disabled", signals=False, quiet=True) as run:
        trainer = Trainer(
            **run.trainer_kwargs(
                accelerator="gpu" if gpu else "cpu", devices=1, precision="bf16-mixed", max_epochs=1000,
                limit_val_batches=0, callbacks=[watch],
            )
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
    assert module.network is not None
    weights = module.network.encoder.named_parameters()
    return watch.found(sum(p.numel() for name, p in weights if "embedding" not in name))


def attempt(found: dict[str, Any], name: str, work: Callable[[], Any]) -> None:
    """Adds a part's numbers, or why it failed."""
    began = time.perf_counter()
    try:
        found[name] = {k: None if v is None else round(v, 4) for k, v in work().items()}
    except Exception as error:
        traceback.print_exc()
        found[name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
    say(f"{name}: {found[name]} ({time.perf_counter() - began:.0f} s)")
