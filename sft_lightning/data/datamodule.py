"""The data module: loads samples, splits them, fits them to the network's input, and makes batches."""

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np

from sft_lightning.core import cache
from sft_lightning.core.errors import UserError
from sft_lightning.core.registry import Registry, refuse_renamed
from sft_lightning.core.structures import Batch, InputSpec, InputView, TaskInfo
from sft_lightning.data.arguments import PositiveInt, ProperShare, Range, Seed, Share, check_arguments, given_to
from sft_lightning.data.bad_samples import OR_SKIP, LeftOut, OnBadSample, Skipped, report
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
MOST_WORKERS = 1024  # processes that load data, for one rank: more is a typing error, and would overload the machine
RENAMED = {"bind": "settle", "connect": "settle", "finish": "device_transform", "go_on_at": "resume_at"}
"""Methods that earlier versions had, and their new names"""

DATA_MODULES: Registry["SFTDataModule"] = Registry("data module")


class SFTDataModule(Batches, ABC):
    """Loads samples, and subsets and splits them the same way for every variant.

    If the data has no validation split, one is set aside first (`val_fraction`, always the same rows). Then the labelled
    subset is drawn from the rest (`shots_per_class`, `train_fraction`), and `folds` cuts it into parts. A run that holds
    out a part validates on that part alone. It uses the ordinary validation rows neither for training nor for validation,
    so that it sees no labels but those of the labelled subset, which is the same with and without folds. None of this
    changes the test split.

    Args:
        batch_size: Samples per optimizer step, over all micro-batches and ranks.
        eval_batch_size: Samples per rank and batch when not training; default batch_size divided by the number of ranks.
        classes: Keep these classes, by name or number, in this order; of sets of labels, keep these labels, and all samples.
        shots_per_class: Labelled training samples kept per class; of sentences, at least as many with each type of entity.
        train_fraction: Share of the training samples kept, stratified.
        subset_seed: Seed of the labelled subset and of its folds, and of nothing else.
        folds: Number of parts of the labelled training set, for cross-validation; null for the ordinary validation split.
        fold: Which part, from 0, is held out to validate on; null trains on all of them, and validates on the ordinary
            split.
        test_fraction: Share of the training samples, stratified, set aside to test on if the data has no test split, the
            same rows whatever the seeds; null for none.
        val_fraction: Share of the training samples set aside, stratified, to choose checkpoints and settings if the data
            has no validation split; folds never hold them.
        num_workers: Processes that load data; 0 loads in the main one.
        seed: Seed of the order of samples and of augmentation; default the run's seed.
        on_bad_sample: What to do if a sample cannot be read: fail and name it, or skip, count and report it.
    """

    task_name: str = "classification"
    metrics: Sequence[str] = ()
    """The data set's official metrics; empty for those of the task"""
    metrics_by_task: ClassVar[Mapping[str, Sequence[str]]] = {}
    """The same for each task, if a data module has several and sets `metrics` in its constructor"""

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
            raise UserError("data", "shots_per_class and train_fraction are both set", "set only one of them")
        if fold is not None and folds is None:
            raise UserError("data.fold", f"{fold} needs the number of folds", "set data.init_args.folds too")
        if fold is not None and folds is not None and not 0 <= fold < folds:
            raise UserError("data.fold", f"must be 0 to {folds - 1} with data.folds {folds}, got {fold}")
        self.batch_size, self.eval_batch_size, self.classes = batch_size, eval_batch_size, classes
        self.shots_per_class, self.train_fraction, self.subset_seed = shots_per_class, train_fraction, subset_seed
        self.folds, self.fold, self.val_fraction, self.test_fraction = folds, fold, val_fraction, test_fraction
        self.num_workers, self.seed, self.on_bad_sample = num_workers, seed, on_bad_sample
        self.task_info: TaskInfo | None = None
        self.splits: dict[str, Split] = {}
        self.total_train = 0
        """Samples that the training split was drawn from"""
        self.fewest_classes = 2
        """Classes that there must be; 1 for a part of other data"""
        self.notes: list[str] = []
        """What loading guessed, converted or left out"""
        self.spec: InputSpec | None = None
        self.view: InputView | None = None
        """The form in which samples come, once settled"""
        self._left_out = LeftOut()
        self._findings: dict[str, Any] | None = None
        self._common: frozenset[str] = frozenset()
        self._common = frozenset(vars(self)) - of_data_set - LOADED_WITH

    # ---- what a data set defines ----

    @abstractmethod
    def load(self) -> Splits:
        """Reads the samples. Sets nothing on `self`, since several runs of a study may share them."""

    def load_for_prediction(self) -> Samples | None:
        """Reads unlabelled samples to predict on. None if there are none: predict then uses the test split."""
        return None

    def count_outputs(self, labels: list[str], loaded: Splits) -> int:
        """Width of the network's output."""
        return max(1, len(labels))

    def prepare(self, spec: InputSpec) -> InputView:
        """Fits the samples to a network's input, and returns the form in which they come."""
        return InputView()

    def device_transform(self, batch: Batch) -> Batch:
        """Augments and normalises a batch, on the device after transfer."""
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
                raise UserError("data", f"the {name} split of {type(self).__name__} is empty", "add samples to it")

    def _share_out(self, loaded: Splits) -> None:
        """Sets `task_info` and `splits`."""
        classes, by_class = choose_classes(self.classes, loaded.labels), TASKS.find(self.task_name).has_classes
        if by_class and len(classes.labels) < self.fewest_classes:
            number = len(classes.labels)
            found = f"1 class ({classes.labels[0]})" if number else "no class"
            if self.classes is not None:
                raise UserError("data.classes", f"names {found}", "name at least 2")
            raise UserError("data", f"the training data has {found}, but at least 2 are needed")
        outputs = self.count_outputs(classes.labels, loaded)
        self.task_info = TaskInfo(self.task_name, outputs, classes.labels, list(self.metrics))
        train, targets = loaded.train, loaded.train.targets if by_class else None
        partition = Partition(
            val_fraction=self.val_fraction,
            test_fraction=self.test_fraction,
            shots_per_class=self.shots_per_class,
            train_fraction=self.train_fraction,
            subset_seed=self.subset_seed,
            folds=self.folds,
            fold=self.fold,
            groups=train.groups(),
        )
        rows, val, test = self.usable("train", train, classes.rows(train)), None, None
        if loaded.test is None:
            rows, test = partition.set_test_aside(rows, targets)
        if loaded.val is None:
            rows, val = partition.set_val_aside(rows, targets)
        self.total_train = len(rows)
        rows, held_out = partition.draw(rows, targets, classes.names, train.types_in)
        parts = {"train": (train, rows), "val": (train, val if held_out is None else held_out), "test": (train, test)}
        for name, own in (("val", loaded.val), ("test", loaded.test)):
            if own is not None and parts[name][1] is None:
                parts[name] = own, self.usable(name, own, classes.rows(own))
        for name, (samples, part) in parts.items():
            if part is not None:
                self.splits[name] = classes.split(samples, part, name == "train", name)

    def usable(self, split: str, samples: Samples, rows: np.ndarray) -> np.ndarray:
        """Removes the rows that loading refused, and notes them as left out. Raises UserError if no row remains."""
        bad = {row: why.removesuffix(OR_SKIP) for row, why in samples.bad_rows().items()}
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
        """Identifies what `load` depends on: the class, and the attributes that only its own constructor sets."""
        given = {name: repr(value) for name, value in vars(self).items() if name not in self._common}
        return f"{type(self).__module__}.{type(self).__qualname__} {sorted(given.items())}"

    # ---- meeting the network ----

    def settle(self, spec: InputSpec) -> InputView:
        """Prepares the samples for a network's input specification, and returns the form in which they come.

        Only the first specification counts; later networks get the same samples. Raises UserError if data and network do not
        fit.
        """
        if self.view is None:
            self.spec, self.view = spec, self.prepare(spec)
        return self.view

    def receive(self, batch: Batch) -> Batch:
        """Notes the samples that were left out of a batch and finishes it, on the device after transfer."""
        if "skipped" in batch:
            self.note_skipped(*batch.pop("skipped"))
        return self.device_transform(batch)

    # ---- samples that cannot be read ----

    @property
    def skips(self) -> bool:
        """Whether samples that cannot be read are left out."""
        return self.on_bad_sample == "skip"

    @property
    def skipped(self) -> Skipped:
        """The samples left out so far."""
        return self._left_out.found

    def note_skipped(self, split: str, samples: dict[str, str], of_all_ranks: bool = False) -> None:
        """Adds samples (name to reason) that were left out. Each process warns once, of the first sample."""
        rank = getattr(getattr(self, "trainer", None), "global_rank", 0)
        self._left_out.note(split, samples, warn=not (of_all_ranks and rank))

    def state_dict(self) -> dict[str, Any]:
        """The samples left out so far, on any rank."""
        return {"skipped": self.gather_skipped()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the samples left out before a resume; each sample still counts once."""
        self._left_out.take_over(state_dict["skipped"])

    def gather_skipped(self) -> Skipped:
        """Merges `skipped` of all ranks, which must all call this."""
        return self._left_out.gather() if self.skips else self.skipped

    def skipped_report(self, gather: bool = True) -> dict[str, Any]:
        """Counts the samples left out of each split, and lists the first with the reasons.

        `gather` merges all ranks, which must then all call this.
        """
        return report(self.gather_skipped() if gather else self.skipped)

    # ---- saying what it is ----

    def fingerprint(self) -> dict[str, str]:
        """Hash of content, rows and targets of each split: equal if and only if the samples are."""
        return fingerprints(self.splits)["fingerprint"]

    def found(self) -> dict[str, Any]:
        """Findings for run.json, computed once: classes without samples, samples that occur twice and the like."""
        if self._findings is None:
            info = self.task_info
            by_class = info is not None and TASKS.find(info.name).has_classes
            self._findings = findings(self.splits, info.labels if info is not None else [], by_class)
        return self._findings

    def remarks(self) -> list[str]:
        """Remarks beside `describe`, one line each: notes of loading, and findings."""
        return [*self.notes, *lines(self.found(), {name: len(split) for name, split in self.splits.items()})]

    def describe(self) -> str:
        """One line: sizes, classes, majority share."""
        held_out = self.fold is not None and "predict" not in self.splits
        fold = f"val is fold {self.fold} of 0 to {(self.folds or 0) - 1}" if held_out else ""
        first = f"{type(self).__name__}: {sizes_of(self.splits, self.total_train)}"
        return "; ".join(part for part in (first, fold, classes_of(self.task_info, self.splits)) if part)
