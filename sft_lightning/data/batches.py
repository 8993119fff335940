"""Data loaders of a run's splits, for Lightning and the evaluations."""

import lightning as L
import torch
from torch.utils.data import DataLoader

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch
from sft_lightning.data.drawn import limit_of, number_of, take_limit
from sft_lightning.data.loaders import loader_of, measuring_order, training_order
from sft_lightning.data.split import Split


class Batches(L.LightningDataModule):
    """Gives each rank its part of each split; optimizer steps are the same however many ranks share the work."""

    splits: dict[str, Split]
    batch_size: int
    """Samples per optimizer step, over all micro-batches and ranks"""
    eval_batch_size: int | None
    """Samples per rank and batch when not training"""
    num_workers: int
    seed: int | None

    def __init__(self) -> None:
        super().__init__()
        self._compared: int | None = None
        self.generate_samples: int | None = 0
        """Validation samples for which texts are generated; all for None. A test generates for all, unless it is 0"""
        self._resume_at = (0, 0)

    def _world(self) -> tuple[int, int, int]:
        """Rank, number of ranks, micro-batches per optimizer step."""
        trainer = getattr(self, "trainer", None)
        if trainer is None:
            return 0, 1, 1
        # The order below already gives each rank its part, without padding.
        trainer._accelerator_connector.use_distributed_sampler = False
        return trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches

    def loader(
        self, name: str, rank: int, world_size: int, accumulate: int = 1, limit: int | float = 1.0
    ) -> DataLoader[Batch]:
        """Loads one rank's batches of a split: 'train' is shuffled, others are in order. For these, `limit` (batches, or a
        share) draws some of the samples.
        """
        if name not in self.splits:
            fix = "set data.test_fraction to test on a share of the training samples" if name == "test" else ""
            raise UserError("data", f"{type(self).__name__} has no {name} split", fix)
        split, seed = self.splits[name], self.seed or 0
        if name != "train":
            return self._in_order(split, rank, world_size, limit, self._compared if name in ("val", "test") else None)
        overfits = getattr(getattr(self, "trainer", None), "overfit_batches", 0)
        order = training_order(split, self.batch_size, rank, world_size, accumulate, seed, reshuffle=not overfits)
        order.resume_at(*self._resume_at)
        self._resume_at = (0, 0)
        return loader_of(split, order, self.num_workers, seed)

    def _in_order(
        self, split: Split, rank: int, world_size: int, limit: int | float, compared: int | None
    ) -> DataLoader[Batch]:
        micro = self.eval_batch_size or max(1, self.batch_size // world_size)
        all_or_none = None if self.generate_samples != 0 else 0
        wanted = {"train": 0, "val": self.generate_samples, "predict": None}
        generated = wanted.get(split.name, all_or_none)
        order = measuring_order(split, micro, rank, world_size, self._number(split, limit), compared, generated)
        return loader_of(split, order, self.num_workers, self.seed or 0)

    def _number(self, split: Split, limit: int | float) -> int:
        return number_of(limit, len(split), self.eval_batch_size or self.batch_size)

    def training_samples(self) -> DataLoader[Batch]:
        """Loads all training samples on each rank as in validation: each once, without augmentation."""
        train = self.splits["train"]
        return self._in_order(Split(train.samples, train.rows, train.targets, False, "train"), 0, 1, 1.0, None)

    def validation_samples(self) -> DataLoader[Batch]:
        """Loads, on each rank, all validation samples that the trainer's limit draws."""
        return self.loader("val", 0, 1, limit=limit_of(self.trainer, "val"))

    def resume_at(self, epoch: int, batches: int) -> None:
        """Starts the next training loader in `epoch`, after `batches` micro-batches of each rank.

        Resuming within an epoch needs nothing else, since order and views are functions of (seed, epoch, row).
        """
        self._resume_at = (epoch, batches)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train", *self._world())

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._measuring("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._measuring("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.loader("predict" if "predict" in self.splits else "test", *self._world()[:2])

    def _measuring(self, split: str) -> DataLoader[Batch]:
        trainer = getattr(self, "trainer", None)
        return self.loader(split, *self._world()[:2], limit=1.0 if trainer is None else take_limit(trainer, split))

    def samples_measured(self, split: str, limit: int | float) -> int:
        """Samples of a split that an evaluation with this limit draws."""
        return self._number(self.splits[split], limit)

    def compare_on(self, samples: int | None) -> None:
        """Compares student and teacher on `samples` samples of a split (None: all), drawn evenly; their batches come first."""
        self._compared = samples

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Moves a batch's tensors to the device. A batch on the CPU is already where it is to be used."""
        if torch.device(device).type == "cpu" and type(batch) is dict:
            return batch
        moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def receive(self, batch: Batch) -> Batch:
        """Finishes a batch on the device, after transfer."""
        return batch

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Finishes the batch and converts it to the trainer's precision; Lightning converts only before this hook."""
        batch, trainer = self.receive(batch), getattr(self, "trainer", None)
        converted: Batch = batch if trainer is None else trainer.precision_plugin.convert_input(batch)
        return converted
