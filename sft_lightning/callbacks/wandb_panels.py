"""Logs pictures to W&B: the confusion matrix and, for images and sounds, samples with their predictions, masks or boxes."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sft_lightning.callbacks.overlays import wandb_image
from sft_lightning.core.structures import Batch, Output
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.runs.wandb_log import WandbLog
from sft_lightning.tasks import Task
from sft_lightning.tasks.base import Said

WAVEFORMS = ("sound", "input_values")
"""Inputs of networks that are waveforms, if they have two dimensions"""


class Panels(Callback):
    """Logs `val/confusion_matrix` and `val/samples` (or `test/…`) of classification, from the last validation; of segmentation
    and detection `val/samples` with W&B's masks or boxes `prediction` and `truth`.

    Args:
        samples: Number of images or sounds shown, from the start of the validation split.
        classes: Largest number of classes that gets a matrix; a larger one is unreadable.
    """

    def __init__(self, samples: int = 16, classes: int = 100) -> None:
        self.samples, self.classes = samples, classes
        self._clear()

    def _clear(self) -> None:
        self._targets: list[int] = []
        self._said: list[int] = []
        self._images: list[Any] = []
        self._sounds: list[Any] = []
        self._overlaid: list[tuple[Tensor, Said]] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clear()

    on_test_epoch_start = on_validation_epoch_start

    def _collect(self, module: LightningModule, outputs: Any, batch: Any) -> None:
        assert isinstance(module, TunedModule)
        if not isinstance(outputs, Output) or module.task is None or "y" not in batch:
            return
        if not module.task.has_classes:
            if len(self._overlaid) < self.samples and "image" in batch["x"]:
                self._overlaid += overlaid(module.task, outputs, batch)[: self.samples - len(self._overlaid)]
            return
        said = outputs.logits.argmax(-1).tolist()
        self._targets += batch["y"].tolist()
        self._said += said
        image = batch["x"].get("image")
        if image is not None and "real" not in batch:
            for picture, target, guess in zip(image, batch["y"].tolist(), said, strict=True):
                if len(self._images) < self.samples:
                    self._images.append((picture.float().cpu(), target, guess))
        sound = next((batch["x"][name] for name in WAVEFORMS if name in batch["x"]), None)
        if sound is not None and sound.ndim == 2 and "real" not in batch:
            lengths = batch["x"]["sound_lengths"].tolist()
            for values, length, target, guess in zip(sound, lengths, batch["y"].tolist(), said, strict=True):
                if len(self._sounds) < self.samples:
                    self._sounds.append((values[:length].float().cpu(), target, guess))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collect(pl_module, outputs, batch)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collect(pl_module, outputs, batch)

    def _log(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        assert isinstance(module, TunedModule)
        logger = next((lg for lg in trainer.loggers if isinstance(lg, WandbLog)), None)
        if logger is not None and trainer.world_size > 1:  # each rank saw its part
            parts: list[Any] = [None] * trainer.world_size
            dist.all_gather_object(parts, (self._targets, self._said))
            self._targets, self._said = ([row for part in parts for row in part[i]] for i in (0, 1))
        if logger is None or not trainer.is_global_zero or module.info is None:
            return
        if not self._targets and not self._overlaid:
            return
        import wandb

        labels = module.info.labels or [str(i) for i in range(module.info.num_outputs)]
        panels: dict[str, Any] = {}
        if self._targets and len(labels) <= self.classes:
            panels[f"{stage}/confusion_matrix"] = wandb.plot.confusion_matrix(
                y_true=self._targets, preds=self._said, class_names=labels, title=f"{stage} confusion matrix"
            )
        if self._images:
            panels[f"{stage}/samples"] = [
                wandb.Image(visible(image), caption=f"{labels[target]}, said {labels[guess]}")
                for image, target, guess in self._images
            ]
        if self._sounds and module.network is not None:
            panels[f"{stage}/samples"] = [
                wandb.Audio(
                    audible(sound), module.network.input_view.sample_rate, f"{labels[target]}, said {labels[guess]}"
                )
                for sound, target, guess in self._sounds
            ]
        if self._overlaid:
            panels[f"{stage}/samples"] = [
                wandb_image(visible(image), said.found, said.truth, labels, f"found {said.said}; true: {said.right}")
                for image, said in self._overlaid
                if said.found is not None
            ]
        logger.log_panels(panels, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "val")
        self._clear()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "test")
        self._clear()


def overlaid(task: Task, output: Output, batch: Batch) -> list[tuple[Tensor, Said]]:
    """The images of a batch, without what fills them up, and what is found in each; empty if nothing is found in images."""
    said = task.said(output, batch)
    if said is None or any(one.found is None for one in said):
        return []
    image, sizes = batch["x"]["image"], batch["x"].get("size")
    if "real" in batch:
        image, sizes = image[batch["real"]], None if sizes is None else sizes[batch["real"]]
    ends = [image.shape[-2:]] * len(image) if sizes is None else sizes.tolist()
    cut = [one[:, :height, :width].float().cpu() for one, (height, width) in zip(image, ends, strict=True)]
    return list(zip(cut, said, strict=True))


def audible(sound: Tensor) -> Any:
    """A waveform `[T]`, perhaps normalised, scaled so that its largest value is 1."""
    return (sound / sound.abs().max().clamp(min=1e-6)).numpy()


def visible(image: Tensor) -> Any:
    """A normalised image `[C, H, W]` as uint8 `[H, W, C]`, scaled so that its darkest value is black, its brightest white."""
    low, high = image.min(), image.max()
    scaled = (image - low) / (high - low).clamp(min=1e-6) * 255
    if scaled.shape[0] not in (1, 3):
        scaled = scaled[:1]
    return scaled.round().to(torch.uint8).permute(1, 2, 0).squeeze(-1).numpy()
