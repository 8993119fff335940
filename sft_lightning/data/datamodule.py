"""The data module: loads samples, decides who is in which split, settles with the network how samples come, and batches."""

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from sft_lightning.core import cache
from sft_lightning.core.errors import UserError
from sft_lightning.core.registry import Registry, refuse_renamed
from sft_lightning.core.structures import Batch, InputSpec, InputView, TaskInfo
from sft_lightning.data.arguments import PositiveInt, ProperShare, Range, Seed, Share, check_arguments, given_to
from sft_lightning.data.bad_samples import LeftOut, OnBadSample, Skipped, report
from sft_lightning.data.batches import Batches
from sft_lightning.data.description import classes_of, sizes_of
from sft_lightning.data.findings import findings, lines
from sft_lightning.data.fingerprints import fingerprints
from sft_lightning.data.partition import Partition, choose_classes
from sft_lightning.data.samples import Samples, Splits
from sft_lightning.data.split import Split
from sft_lightning.tasks import TASKS

LOADED_WITH = {"classes", "test_fraction", "on_bad_sample"}
"""Arguments of every data module that may decide what `load` reads; the others choose among samples, and batch them."""
MOST_WORKERS = 1024  # processes that load data, for one rank: more is a slip, and would take the machine down
RENAMED = {"bind": "settle", "connect": "settle", "finish": "device_transform", "go_on_at": "resume_at"}
"""Methods of data modules that were written for earlier versions"""

DATA_MODULES: Registry["SFTDataModule"] = Registry("data module")


class SFTDataModule(Batches, ABC):
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
        refuse_renamed(cls, RENAMED)
        if not base:
            DATA_MODULES.add_class(cls)

    def __init__(
        self,
        batch_size: PositiveInt = 32,
        eval_batch_size: PositiveInt | None = None,
        classes: list[str | int] | None = None,
        shots_per_class: PositiveInt | None = None,
        train_fraction: Share | None = None,
        subset_seed: Seed = 0,
        folds: Annotated[int, Range(2)] | None = None,
        fold: int | None = None,
        test_fraction: ProperShare | None = None,
        val_fraction: ProperShare = 0.1,
        num_workers: Annotated[int, Range(0, MOST_WORKERS)] = 0,
        seed: Seed | None = None,
        on_bad_sample: OnBadSample = "fail",
    ) -> None:
        of_data_set = set(vars(self))  # what its constructor set before it called this one
        super().__init__()
        check_arguments(SFTDataModule.__init__, locals())
        self.arguments = given_to(inspect.currentframe(), type(self))
        """What the constructor was given, defaults included"""
        if shots_per_class is not None and train_fraction is not None:
            raise UserError("data", "set shots_per_class or train_fraction, not both")
        if fold is not None and folds is None:
            raise UserError("data", f"fold {fold} is one of the parts that folds says", "set data.init_args.folds too")
        if fold is not None and folds is not None and not 0 <= fold < folds:
            raise UserError("data", f"fold must be 0 to {folds - 1} with folds {folds}, got {fold}")
        self.batch_size, self.eval_batch_size, self.classes = batch_size, eval_batch_size, classes
        self.shots_per_class, self.train_fraction, self.subset_seed = shots_per_class, train_fraction, subset_seed
        self.folds, self.fold, self.val_fraction, self.test_fraction = folds, fold, val_fraction, test_fraction
        self.num_workers, self.seed, self.on_bad_sample = num_workers, seed, on_bad_sample
        self.task_info: TaskInfo | None = None
        self.splits: dict[str, Split] = {}
        self.total_train = 0
        """Samples that the training split was drawn from"""
        self.notes: list[str] = []
        """What loading guessed, converted or left out"""
        self.spec: InputSpec | None = None
        self.view: InputView | None = None
        """How samples come, once that is settled"""
        self._left_out = LeftOut()
        self._findings: dict[str, Any] | None = None
        self._common: frozenset[str] = frozenset()
        self._common = frozenset(vars(self)) - of_data_set - LOADED_WITH

    # ---- what a data set defines ----

    @abstractmethod
    def load(self) -> Splits:
        """Reads the samples, and sets nothing on `self`: runs of a study that load the same may share them."""

    def load_for_prediction(self) -> Samples | None:
        """Unlabelled samples to predict on, where the data set was given some; else predict uses the test split."""
        return None

    def count_outputs(self, labels: list[str], loaded: Splits) -> int:
        """Width of the network's output."""
        return max(1, len(labels))

    def prepare(self, spec: InputSpec) -> InputView:
        """Fits the samples to what a network wants to be fed, and says how they come."""
        return InputView()

    def device_transform(self, batch: Batch) -> Batch:
        """On the device, after transfer: augmentation and normalisation."""
        return batch

    # ---- loading and subsetting ----

    def setup(self, stage: str = "fit") -> None:
        """Loads, keeps the classes asked for, sets validation aside, draws the labelled subset."""
        if self.splits:
            return
        if self.seed is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        if stage == "predict" and (samples := self.load_for_prediction()) is not None:
            samples.skips = self.skips
            rows = self.usable("predict", samples, np.arange(len(samples)))
            self.splits = {"predict": Split(samples, rows, None, False, "predict")}
            return
        loaded = cache.samples(self.loads_from(), self.load)
        self.notes = loaded.notes
        for samples in loaded.each():
            samples.skips = self.skips
        self._share_out(loaded)
        for name, split in self.splits.items():
            if not len(split):
                raise UserError("data", f"{type(self).__name__}: the {name} split is empty")

    def _share_out(self, loaded: Splits) -> None:
        """Sets `task_info` and `splits`."""
        classes, by_class = choose_classes(self.classes, loaded.labels), TASKS.find(self.task_name).has_classes
        if by_class and len(classes.labels) < 2:
            chosen = "classes" if self.classes is not None else "the training data"
            found = f"{len(classes.labels)} classes ({', '.join(classes.labels)})"
            raise UserError("data", f"{chosen} has {found}: at least 2 are needed")
        outputs = self.count_outputs(classes.labels, loaded)
        self.task_info = TaskInfo(self.task_name, outputs, classes.labels, list(self.metrics))
        train, targets = loaded.train, loaded.train.targets if by_class else None
        partition = Partition(
            where=f"data: {type(self).__name__}",
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            shots_per_class=self.shots_per_class,
            train_fraction=self.train_fraction,
            subset_seed=self.subset_seed,
            folds=self.folds,
            fold=self.fold,
        )
        rows, val, test = self.usable("train", train, classes.rows(train)), None, None
        if loaded.test is None:
            rows, test = partition.set_test_aside(rows, targets)
        if loaded.val is None:
            rows, val = partition.set_val_aside(rows, targets)
        self.total_train = len(rows)
        rows, held_out = partition.draw(rows, targets, classes.names)
        parts = {"train": (train, rows), "val": (train, val if held_out is None else held_out), "test": (train, test)}
        for name, own in (("val", loaded.val), ("test", loaded.test)):
            if own is not None and parts[name][1] is None:
                parts[name] = own, self.usable(name, own, classes.rows(own))
        for name, (samples, part) in parts.items():
            if part is not None:
                self.splits[name] = classes.split(samples, part, name == "train", name)

    def usable(self, split: str, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """`rows` without those that loading refused, which are noted as left out. Raises UserError where none remains."""
        bad = samples.bad_rows()
        if not bad:
            return rows
        there = set(rows.tolist())
        self.note_skipped(split, {samples.name(r): why for r, why in bad.items() if r in there}, of_all_ranks=True)
        left = rows[~np.isin(rows, list(bad))]
        if not len(left):
            row, why = next(iter(bad.items()))
            raise UserError("data", f"not one sample of {split} can be used; the first: {samples.name(row)}: {why}")
        return left

    def loads_from(self) -> str:
        """All that `load` depends on: the class, and what its constructor set beside what all data modules have."""
        given = {name: repr(value) for name, value in vars(self).items() if name not in self._common}
        return f"{type(self).__module__}.{type(self).__qualname__} {sorted(given.items())}"

    # ---- meeting the network ----

    def settle(self, spec: InputSpec) -> InputView:
        """Prepares the samples for a network that wants to be fed so, and says how they come.

        The first specification is followed; what comes later gets the same samples. Raises UserError where data and network do
        not fit.
        """
        if self.view is None:
            self.spec, self.view = spec, self.prepare(spec)
        return self.view

    def receive(self, batch: Batch) -> Batch:
        """On the device, after transfer: notes what was left out of the batch, and finishes it."""
        if "skipped" in batch:
            self.note_skipped(*batch.pop("skipped"))
        return self.device_transform(batch)

    # ---- samples that cannot be read ----

    @property
    def skips(self) -> bool:
        """Whether such samples are left out."""
        return self.on_bad_sample == "skip"

    @property
    def skipped(self) -> Skipped:
        """Those that were left out so far."""
        return self._left_out.found

    def note_skipped(self, split: str, samples: dict[str, str], of_all_ranks: bool = False) -> None:
        """Adds samples (name to reason) that were left out; says so of the first, once for each process."""
        rank = getattr(getattr(self, "trainer", None), "global_rank", 0)
        self._left_out.note(split, samples, warn=not (of_all_ranks and rank))

    def state_dict(self) -> dict[str, Any]:
        """What was left out so far, on any rank."""
        return {"skipped": self.gather_skipped()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what was left out before a resume: each sample still counts once."""
        self._left_out.take_over(state_dict["skipped"])

    def gather_skipped(self) -> Skipped:
        """`skipped` of all ranks together, which must all call this."""
        return self._left_out.gather() if self.skips else self.skipped

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
        if self._findings is None:
            info = self.task_info
            by_class = info is not None and TASKS.find(info.name).has_classes
            self._findings = findings(self.splits, info.labels if info is not None else [], by_class)
        return self._findings

    def remarks(self) -> list[str]:
        """What is worth saying beside `describe`: a line each."""
        return [*self.notes, *lines(self.found(), {name: len(split) for name, split in self.splits.items()})]

    def describe(self) -> str:
        """One line: sizes, classes, majority share."""
        held_out = self.fold is not None and "predict" not in self.splits
        fold = f"val is fold {self.fold} of 0 to {(self.folds or 0) - 1}" if held_out else ""
        first = f"{type(self).__name__}: {sizes_of(self.splits, self.total_train)}"
        return "; ".join(part for part in (first, fold, classes_of(self.task_info, self.splits)) if part)
