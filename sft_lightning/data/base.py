"""What every data module does: subset, split, describe, fingerprint, batch. A data set adds where samples come from."""

import inspect
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sft_lightning.core import cache
from sft_lightning.core.errors import UserError
from sft_lightning.core.registry import Registry
from sft_lightning.core.signals import ignore_in_worker
from sft_lightning.core.structures import Batch, InputSpec, TaskInfo
from sft_lightning.data.arguments import arguments_of
from sft_lightning.data.bad_samples import OnBadSample, Skipped, fetch_readable, merged, printable, report
from sft_lightning.data.drawn import EvenBatches, limit_of, number_of, take_limit
from sft_lightning.data.findings import findings, lines
from sft_lightning.data.fingerprints import fingerprints
from sft_lightning.data.sampler import GlobalBatches, Key, micro_batch_size
from sft_lightning.data.subset import cut, folds, share, shots, strata
from sft_lightning.networks.base import Network

AFTER_LOADING = {
    *("batch_size", "eval_batch_size", "shots_per_class", "train_fraction", "subset_seed", "folds", "fold"),
    *(
        "val_fraction",
        "num_workers",
        "seed",
        "trainer",
        "splits",
        "spec",
        "task_info",
        "skipped",
        "_warned",
        "_compared",
    ),
    *("notes", "_found", "unknown", "arguments"),
}
"""What `load` does not look at."""
MOST_WORKERS = 1024  # processes that load data, for one rank: more is a slip, and would take the machine down


class Samples(ABC):
    """Samples of one split as they lie in memory or on disk, before subsetting. Row numbers name samples."""

    targets: np.ndarray | None
    """`[rows]` class numbers or values; None where unlabelled or where the target is part of the sample."""
    skips: bool = False
    """Whether samples that cannot be read are left out; else the first of them ends the run."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """Network inputs of these rows, batched, in a dict; language models add `y` for their tokens.

        Raises BadSample naming rows that cannot be read.
        """

    @abstractmethod
    def digest(self) -> bytes:
        """Hash of the content."""

    def lengths(self) -> np.ndarray | None:
        """Tokens of each row where batches may be grouped by length."""
        return None

    def contents(self) -> np.ndarray | None:
        """`[rows]` uint64, equal where two rows show the same, whatever their labels; None where that is not known."""
        return None

    def bad_rows(self) -> dict[int, str]:
        """Rows that loading found to be unusable, and why: they are in no split."""
        return {}

    def name(self, row: int) -> str:
        """What to call a row in a message."""
        return f"sample {row}"


@dataclass
class Splits:
    """What a data set loads. `val` and `test` may be missing; the labels are in class order."""

    train: Samples
    val: Samples | None = None
    test: Samples | None = None
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What reading guessed, converted or left out, one line each"""


class Split(Dataset[Batch]):
    """Some rows of some samples, delivered as whole batches."""

    name = ""

    def __init__(self, samples: Samples, rows: np.ndarray, targets: np.ndarray | None, train: bool) -> None:
        self.samples, self.rows, self.targets, self.train = samples, rows, targets, train

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """One batch. Samples that are fillers are marked off in `real`; `skipped` names samples left out."""
        compared = keys[0].compared
        x, keys, bad = fetch_readable(self, keys)
        positions = np.array([k.position for k in keys], dtype=np.int64)
        rows = self.rows[positions]
        batch: Batch = {
            "x": x,
            "index": torch.from_numpy(rows),
            "rows": rows.tolist(),
            "epoch": keys[0].epoch,
            "train": self.train,
            "compared": compared,
            "samples": sum(k.real for k in keys),
        }
        if bad:
            batch["skipped"] = (self.name, {self.samples.name(row): why for row, why in bad.items()})
        real = torch.tensor([k.real for k in keys])
        if not real.all():
            batch["real"] = real
        if "select" in x:  # the samples have items of their own, such as tokens
            select, y = x.pop("select"), x.pop("y", None)
            if y is not None:
                batch["y"] = y[real[:, None].expand_as(select)[select]]
            batch["select"] = select & real[:, None]
            batch["count"] = int(batch["select"].sum())
            return batch
        if self.targets is not None:
            batch["y"] = torch.from_numpy(self.targets[positions][real.numpy()])
        batch["count"] = int(real.sum())
        return batch

    def __getitem__(self, key: Key | int) -> Batch:
        return self.__getitems__([key if isinstance(key, Key) else Key(int(key), 0)])


def _as_is(batch: Any) -> Any:
    return batch


DATA_MODULES: Registry["SFTDataModule"] = Registry("data module")


class SFTDataModule(L.LightningDataModule, ABC):
    """Samples, subset and split the same way for every variant.

    In this order: the validation split is set aside where the data has none of its own (`val_fraction`, always the same
    rows), the labelled subset is drawn from the rest (`shots_per_class`, `train_fraction`), and with `folds` the subset
    is cut into parts. A run that holds out a part validates on it alone: the ordinary validation rows are then neither
    trained nor validated on, so that the labelled set is all that was looked at, and training rows are the same ones
    with and without folds. The test split is never touched by any of this.

    Args:
        batch_size: Samples per optimizer step, over all micro-batches and ranks.
        eval_batch_size: Samples per rank and batch when not training; default the same as batch_size over ranks.
        classes: Keep these classes, by name or number, in this order.
        shots_per_class: Labelled training samples kept per class.
        train_fraction: Share of the training samples kept, stratified.
        subset_seed: Seed of the labelled subset and of its folds, and of nothing else.
        folds: Parts the labelled training set is cut into for cross-validation; null for the ordinary validation split.
        fold: Which part, from 0, is held out to validate on; null trains on all of them, and validates on the ordinary
            split.
        test_fraction: Share of the training samples, stratified, set aside to test on where the data has no test split, the
            same rows whatever the seeds; null for none.
        val_fraction: Share of the training samples set aside, stratified, to choose checkpoints and settings, where the
            data has no validation split; folds never hold them.
        num_workers: Processes that load data; 0 loads in the main one.
        seed: Seed of the order of samples and of augmentation; default the run's seed.
        on_bad_sample: What to do where a sample cannot be read: fail naming it, or skip it, counted and reported.
    """

    task_name: str = "classification"
    metrics: Sequence[str] = ()
    """Official metrics where the data set has some; else the task's."""

    def __init_subclass__(cls, base: bool = False, **kwargs: Any) -> None:
        """Registers the class, unless it is a `base` of others."""
        super().__init_subclass__(**kwargs)
        if not base:
            DATA_MODULES.add_class(cls)

    def __init__(
        self,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        classes: list[str | int] | None = None,
        shots_per_class: int | None = None,
        train_fraction: float | None = None,
        subset_seed: int = 0,
        folds: int | None = None,
        fold: int | None = None,
        test_fraction: float | None = None,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int | None = None,
        on_bad_sample: OnBadSample = "fail",
    ) -> None:
        super().__init__()
        self.arguments = arguments_of(inspect.currentframe(), type(self))
        """What the constructor was given, defaults included"""
        self.batch_size, self.eval_batch_size, self.classes = batch_size, eval_batch_size, classes
        self.shots_per_class, self.train_fraction, self.subset_seed = shots_per_class, train_fraction, subset_seed
        self.folds, self.fold = folds, fold
        self.val_fraction, self.num_workers, self.seed = val_fraction, num_workers, seed
        self.on_bad_sample = on_bad_sample
        self.skipped: Skipped = {}
        self._warned = False
        self.task_info: TaskInfo | None = None
        self.splits: dict[str, Split] = {}
        self.spec: InputSpec | None = None
        self.notes: list[str] = []
        """What loading guessed, converted or left out"""
        self._found: dict[str, Any] | None = None
        if shots_per_class is not None and train_fraction is not None:
            raise UserError("data: set shots_per_class or train_fraction, not both")
        if shots_per_class is not None and shots_per_class < 1:
            raise UserError(f"data: shots_per_class must be at least 1, got {shots_per_class}")
        if train_fraction is not None and not 0 < train_fraction <= 1:
            raise UserError(f"data: train_fraction must be in (0, 1], got {train_fraction}")
        if folds is not None and folds < 2:
            raise UserError(f"data: folds must be at least 2, got {folds}")
        if fold is not None and folds is None:
            raise UserError(f"data: fold {fold} is one of the parts that folds says: set data.init_args.folds too")
        if fold is not None and folds is not None and not 0 <= fold < folds:
            raise UserError(f"data: fold must be 0 to {folds - 1} with folds {folds}, got {fold}")
        self.test_fraction = test_fraction
        if test_fraction is not None and not 0 < test_fraction < 1:
            raise UserError(f"data: test_fraction must be in (0, 1), got {test_fraction}")
        if not 0 < val_fraction < 1:
            raise UserError(f"data: val_fraction must be in (0, 1), got {val_fraction}")
        if eval_batch_size is not None and eval_batch_size < 1:
            raise UserError(f"data: eval_batch_size must be at least 1, got {eval_batch_size}")
        if not 0 <= num_workers <= MOST_WORKERS:
            raise UserError(f"data: num_workers must be 0 to {MOST_WORKERS}, got {num_workers}")
        for name, number in (("subset_seed", subset_seed), ("seed", seed or 0)):
            if not 0 <= number < 2**32:
                raise UserError(f"data: {name} must be 0 to {2**32 - 1}, got {number}")
        if batch_size < 1:
            raise UserError(f"data.batch_size must be at least 1, got {batch_size}")
        if on_bad_sample not in ("fail", "skip"):
            raise UserError(f"data.on_bad_sample: '{on_bad_sample}' is neither fail nor skip")

    # ---- what a data set defines ----

    @abstractmethod
    def load(self) -> Splits:
        """Reads the samples, and sets nothing on `self`: runs of a study that load the same may share them."""

    def load_for_prediction(self) -> Samples | None:
        """Unlabelled samples to predict on, where the data set was given some; else predict uses the test split."""
        return None

    def prepare(self, network: Network) -> None:
        """Fits the samples to what the network eats: `self.spec` is set."""

    def device_transform(self, batch: Batch) -> Batch:
        """On the device, after transfer: augmentation and normalisation."""
        return batch

    # ---- loading and subsetting ----

    def setup(self, stage: str = "fit") -> None:
        """Loads, keeps the classes asked for, sets validation aside, draws the labelled subset."""
        if self.splits:
            return
        if self.seed is None:
            import os

            self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        if stage == "predict" and (samples := self.load_for_prediction()) is not None:
            samples.skips = self.skips
            self.splits = {"predict": Split(samples, self._rows(samples, None, "predict"), None, False)}
            self.splits["predict"].name = "predict"
            return
        loaded = cache.samples(self.loads_from(), self.load)
        self.notes = loaded.notes
        for part in (loaded.train, loaded.val, loaded.test):
            if part is not None:
                part.skips = self.skips
        labels, numbers = self._choose_classes(loaded.labels)
        if self.task_name == "classification" and len(labels) < 2:
            chosen = "classes" if self.classes is not None else "the training data"
            raise UserError(f"data: {chosen} has {len(labels)} classes ({', '.join(labels)}): at least 2 are needed")
        self.task_info = TaskInfo(self.task_name, self.count_outputs(labels, loaded), labels, list(self.metrics))
        rows, test = self._rows(loaded.train, numbers, "train"), None
        if loaded.test is None and self.test_fraction is not None:
            by_class = loaded.train.targets if self.task_name == "classification" else None
            rows, test = cut(rows, strata(by_class, rows), self.test_fraction, f"data: {type(self).__name__}")
        train, val = self._train_and_val(loaded, rows, labels, numbers)
        self.splits["train"] = self._split(loaded.train, train, numbers, True)
        if val is not None:
            self.splits["val"] = self._split(loaded.train, val, numbers, False)
        else:
            assert loaded.val is not None
            self.splits["val"] = self._split(loaded.val, self._rows(loaded.val, numbers, "val"), numbers, False)
        if test is not None:
            self.splits["test"] = self._split(loaded.train, test, numbers, False)
        if loaded.test is not None:
            self.splits["test"] = self._split(loaded.test, self._rows(loaded.test, numbers, "test"), numbers, False)
        for name, split in self.splits.items():
            split.name = name
            if not len(split):
                raise UserError(f"data: {type(self).__name__}: the {name} split is empty")

    def loads_from(self) -> str:
        """All that `load` depends on: what the constructor set, but for what chooses among samples and batches them."""
        given = {name: repr(value) for name, value in vars(self).items() if name not in AFTER_LOADING}
        return f"{type(self).__module__}.{type(self).__qualname__} {sorted(given.items())}"

    def count_outputs(self, labels: list[str], loaded: Splits) -> int:
        """Width of the network's output."""
        return max(1, len(labels))

    def _choose_classes(self, labels: list[str]) -> tuple[list[str], list[int] | None]:
        if self.classes is None:
            return labels, None
        if not labels:
            raise UserError("data: classes is for labelled classes, and this data has none")
        numbers = []
        numeric = any(re.fullmatch(r"[-+]?[\d.]+", label) for label in labels)  # a number would name another class
        for wanted in self.classes:
            name = str(wanted)
            if name in labels:
                numbers.append(labels.index(name))
            elif isinstance(wanted, int) and 0 <= wanted < len(labels) and not numeric:
                numbers.append(wanted)
            else:
                raise UserError(f"data: no class '{wanted}'; there are {len(labels)}: {', '.join(labels[:12])}")
        if len(set(numbers)) != len(numbers):
            raise UserError(f"data: classes names one twice: {self.classes}")
        return [labels[n] for n in numbers], numbers

    def _rows(self, samples: Samples, numbers: list[int] | None, what: str) -> np.ndarray:
        rows = np.arange(len(samples))
        if numbers is not None and samples.targets is not None:
            refused = [-1] if samples.bad_rows() else []  # whatever class a row with an unusable label is of
            rows = np.flatnonzero(np.isin(samples.targets, [*numbers, *refused]))
        return self._usable(what, samples, rows)

    def _usable(self, what: str, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Without the rows that loading refused."""
        bad = samples.bad_rows()
        if not bad:
            return rows
        there = set(rows.tolist())
        self.note_skipped(what, {samples.name(r): why for r, why in bad.items() if r in there}, of_all_ranks=True)
        usable = rows[~np.isin(rows, list(bad))]
        if not len(usable):
            row, why = next(iter(bad.items()))
            raise UserError(f"data: not one sample of {what} can be used; the first: {samples.name(row)}: {why}")
        return usable

    def _train_and_val(
        self, loaded: Splits, rows: np.ndarray, labels: list[str], numbers: list[int] | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Of the usable `rows` of the training samples those to train on, and those to validate on unless the data's own
        validation split serves.
        """
        val: np.ndarray | None = None
        targets = loaded.train.targets if self.task_name == "classification" else None
        names = dict(zip(numbers if numbers is not None else range(len(labels)), labels, strict=True))
        if loaded.val is None:
            rows, val = cut(rows, strata(targets, rows), self.val_fraction, f"data: {type(self).__name__}")
        self.total_train = len(rows)
        if self.train_fraction is not None and self.train_fraction < 1:
            rows = share(rows, strata(targets, rows), self.train_fraction, self.subset_seed, len(labels))
        elif self.shots_per_class is not None:
            rows = shots(rows, targets, self.shots_per_class, self.subset_seed, names)
        parts = [] if self.folds is None else folds(rows, targets, self.folds, self.subset_seed, names)
        if self.fold is None:
            return rows, val
        return np.setdiff1d(rows, parts[self.fold]), parts[self.fold]

    def _split(self, samples: Samples, rows: np.ndarray, numbers: list[int] | None, train: bool) -> Split:
        targets = samples.targets
        if targets is not None:
            targets = targets[rows]
            if numbers is not None:
                table = {n: i for i, n in enumerate(numbers)}
                targets = np.array([table[int(t)] for t in targets], dtype=np.int64)
        return Split(samples, rows, targets, train)

    # ---- meeting the network ----

    def connect(self, network: Network) -> None:
        """Learns what the network eats; called by the module once the network is built."""
        wanted = network.input_spec
        if self.spec is None:
            self.spec = wanted
            self.prepare(network)

    # ---- batches ----

    def _world(self) -> tuple[int, int, int]:
        trainer = getattr(self, "trainer", None)
        if trainer is None:
            return 0, 1, 1
        # The sampler below already gives each rank its part, without padding.
        trainer._accelerator_connector.use_distributed_sampler = False
        return trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches

    def loader(
        self, name: str, rank: int, world_size: int, accumulate: int = 1, limit: int | float = 1.0
    ) -> DataLoader[Batch]:
        """The batches of a split for one rank: shuffled for 'train'; otherwise in order, or the samples that `limit` (batches,
        or a share) draws.
        """
        if name not in self.splits:
            raise UserError(f"data: {type(self).__name__} has no {name} split")
        split = self.splits[name]
        lengths = split.samples.lengths()
        lengths = None if lengths is None else lengths[split.rows]
        sampler: GlobalBatches
        if name == "train":
            micro = micro_batch_size(self.batch_size, world_size, accumulate)
            overfits = getattr(getattr(self, "trainer", None), "overfit_batches", 0)
            sampler = GlobalBatches(
                len(split),
                micro,
                accumulate,
                rank,
                world_size,
                shuffle=True,
                seed=self.seed or 0,
                lengths=lengths,
                reshuffle=not overfits,
            )
            sampler.resume_at(*self._resume_at)
            self._resume_at = (0, 0)
        else:
            micro = self.eval_batch_size or max(1, self.batch_size // world_size)
            number, compared = self.samples_measured(name, limit), self._compared if name in ("val", "test") else None
            sampler = EvenBatches(len(split), micro, rank, world_size, lengths, number, compared)
        loader: DataLoader[Batch] = DataLoader(
            split,
            batch_sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=_as_is,
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed or 0),  # or each iteration would draw from the global one
            pin_memory=torch.cuda.is_available(),
            multiprocessing_context="fork" if self.num_workers and not torch.cuda.is_available() else None,
            worker_init_fn=ignore_in_worker if self.num_workers else None,
        )
        return loader

    def training_samples(self) -> DataLoader[Batch]:
        """All training samples on each rank, as validation sees its own: each once, without augmentation."""
        train, name = self.splits["train"], "train, as it is"
        self.splits[name] = Split(train.samples, train.rows, train.targets, False)
        self.splits[name].name = "train"
        try:
            return self.loader(name, 0, 1)
        finally:
            del self.splits[name]

    def validation_samples(self) -> DataLoader[Batch]:
        """The validation samples that the trainer's limit draws, on each rank."""
        return self.loader("val", 0, 1, limit=limit_of(self.trainer, "val"))

    def resume_at(self, epoch: int, batches: int) -> None:
        """The next training loader begins in an epoch after so many of a rank's micro-batches: nothing else is needed to
        go on amid an epoch, since order and views are functions of (seed, epoch, row).
        """
        self._resume_at = (epoch, batches)

    _resume_at = (0, 0)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.loader("train", *self._world())

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._measuring("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._measuring("test")

    def _measuring(self, split: str) -> DataLoader[Batch]:
        trainer = getattr(self, "trainer", None)
        return self.loader(split, *self._world()[:2], limit=1.0 if trainer is None else take_limit(trainer, split))

    def samples_measured(self, split: str, limit: int | float) -> int:
        """Samples of a split that an evaluation with this limit draws."""
        return number_of(limit, len(self.splits[split]), self.eval_batch_size or self.batch_size)

    def compare_on(self, samples: int | None) -> None:
        """Student and teacher are to be compared on so many samples of a split, drawn evenly: they come in batches first.

        None for all.
        """
        self._compared = samples

    _compared: int | None = None

    def predict_dataloader(self) -> DataLoader[Batch]:
        return self.loader("predict" if "predict" in self.splits else "test", *self._world()[:2])

    def receive(self, batch: Batch) -> Batch:
        """On the device, after transfer: notes what was left out of the batch, and finishes it."""
        if "skipped" in batch:
            self.note_skipped(*batch.pop("skipped"))
        return self.device_transform(batch)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Finishes the batch, in the trainer's precision: Lightning converts batches before this hook alone."""
        batch, trainer = self.receive(batch), getattr(self, "trainer", None)
        converted: Batch = batch if trainer is None else trainer.precision_plugin.convert_input(batch)
        return converted

    # ---- samples that cannot be read ----

    @property
    def skips(self) -> bool:
        """Whether such samples are left out."""
        return self.on_bad_sample == "skip"

    def note_skipped(self, split: str, samples: dict[str, str], of_all_ranks: bool = False) -> None:
        """Adds samples (name to reason) that were left out; says so of the first, once for each process."""
        known = self.skipped.setdefault(split, {})
        new = {name: why for name, why in samples.items() if name not in known}
        known.update(new)
        rank = getattr(getattr(self, "trainer", None), "global_rank", 0)
        if not new or self._warned or (of_all_ranks and rank):
            return
        self._warned = True
        name, why = next(iter(new.items()))
        more = f" and {len(new) - 1} more" if len(new) > 1 else ""
        print(
            f"sft-lightning: warning: data: {printable(name)}{more} of {split} left out as data.on_bad_sample is skip "
            f"({why}); all are counted in run.json",
            file=sys.stderr,
            flush=True,
        )

    def gather_skipped(self) -> Skipped:
        """`skipped` of all ranks together, which must all call this."""
        if self.skips and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self.skipped)
            self.skipped = merged(parts)
        return self.skipped

    def state_dict(self) -> dict[str, Any]:
        """What was left out so far, on any rank."""
        return {"skipped": self.gather_skipped()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what was left out before a resume: each sample still counts once."""
        self.skipped = merged([state_dict["skipped"], self.skipped])

    def skipped_report(self, gather: bool = True) -> dict[str, Any]:
        """Of each split how many samples were left out, and the first with the reasons.

        With `gather` of all ranks together, which must all call this.
        """
        return report(self.gather_skipped() if gather else self.skipped)

    # ---- saying what it is ----

    def fingerprint(self) -> dict[str, str]:
        """Hash of content, rows and targets of each split: equal if and only if the samples are."""
        return fingerprints(self.splits)["fingerprint"]

    def found(self) -> dict[str, Any]:
        """Classes without samples, samples that occur twice and the like, for run.json; looked for once."""
        if self._found is None:
            info = self.task_info
            by_class = info is not None and info.name == "classification"
            self._found = findings(self.splits, info.labels if info is not None else [], by_class)
        return self._found

    def remarks(self) -> list[str]:
        """What is worth saying beside `describe`: a line each."""
        return [*self.notes, *lines(self.found(), {name: len(split) for name, split in self.splits.items()})]

    def describe(self) -> str:
        """One line: sizes, classes, majority share."""
        sizes = ", ".join(f"{len(s):,} {n}" for n, s in self.splits.items())
        line = f"{type(self).__name__}: {sizes}"
        train = self.splits.get("train")
        if train is not None and len(train) < getattr(self, "total_train", 0):
            line += f" (of {self.total_train:,} to train on)"
        if self.fold is not None and "predict" not in self.splits:
            line += f"; val is fold {self.fold} of 0 to {(self.folds or 0) - 1}"
        if self.task_info is not None and self.task_info.name == "classification" and "val" in self.splits:
            targets = self.splits["val"].targets
            assert targets is not None
            names = self.task_info.labels
            shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
            share = np.bincount(targets.astype(np.int64)).max() / len(targets)
            line += f"; {len(names)} classes ({shown}), majority share {share:.2f}"
        return line


def tensor_digest(*arrays: np.ndarray | Tensor) -> bytes:
    """sha256 of arrays' bytes."""
    digest = sha256()
    for array in arrays:
        numbers = array.numpy() if isinstance(array, Tensor) else array
        digest.update(str(numbers.shape).encode())
        digest.update(np.ascontiguousarray(numbers).tobytes())
    return digest.digest()
