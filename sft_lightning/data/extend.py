"""Data to add labels to a pretrained network: samples of new labels and, where there are some, samples of the old ones."""

import os
from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, InputSpec, InputView
from sft_lightning.data.arguments import NonNegativeInt, ProperShare, check_arguments
from sft_lightning.data.datamodule import DATA_MODULES, SFTDataModule
from sft_lightning.data.extended_labels import PARTLY, all_labels, among_all, covers, kinds_in, kinds_of
from sft_lightning.data.joined import Joined, augment_alike
from sft_lightning.data.loaders import loader_of
from sft_lightning.data.mixed import MixedBatches
from sft_lightning.data.one_scheme import in_one_scheme
from sft_lightning.data.sampler import micro_batch_size
from sft_lightning.data.samples import Samples, Splits
from sft_lightning.data.split import Split
from sft_lightning.data.subset import shots, shots_of_types

OF_BOTH = ("val_fraction", "test_fraction", "on_bad_sample")
"""Settings that hold for new and old data alike"""
OF_NEW = ("shots_per_class", "train_fraction", "subset_seed", "folds", "fold")
"""Settings that choose among the new data's training samples"""


class Extend(SFTDataModule):
    """New labels for a network that knows others: one list of labels, the old ones first, for one output layer.

    The network's output layer starts with the pretrained rows of the old labels (see networks/joint_head.py). Validation and
    test have the samples of both data sets, and are measured on old labels, on new ones and on all. Training has the new
    data's samples, of which shots_per_class and the like choose some, and `rehearse` old ones.

    In sentences with tags, the new data's O means no new type, and the old data's O no old one. Of sets of labels and of boxes,
    the new data speak of new labels alone, the old ones of old labels. Metrics leave out what an annotation does not cover.

    Args:
        new: Data with the new labels, without settings of subset, split and batches, which are arguments here. It may have
            samples of old labels too, which are then rehearsed.
        old: Data with labels that the network knows, likewise; null if there is none. Its validation and test samples are
            measured even if no training sample is rehearsed.
        known: All labels of the pretrained network, in its order; default those of `old`.
        pool: Data whose labels are not used, such as any texts or images of the network's kind: all its training samples are
            trained on by ExtendSFT's anchor alone; null for none.
        rehearse: Old training samples for each old label (for tags: with each type of entity; of sets and boxes: with each
            label): a number, or all.
        ratio: Share of old samples in each optimizer step; null to train on new and old ones as one set. With rehearse 0, steps
            have the new samples' share alone: the control with equally many steps and no old sample.
        **kwargs: Subset, split, batches; see Digits. shots_per_class, train_fraction and folds are of the new data.
    """

    def __init__(
        self,
        new: SFTDataModule,
        old: SFTDataModule | None = None,
        known: list[str] | None = None,
        pool: SFTDataModule | None = None,
        rehearse: NonNegativeInt | Literal["all"] = 0,
        ratio: ProperShare | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_arguments(Extend.__init__, {"ratio": ratio})
        if rehearse != "all" and not (isinstance(rehearse, int) and not isinstance(rehearse, bool) and rehearse >= 0):
            raise UserError("data.rehearse", f"must be a number of at least 0, or all, got {rehearse!r}")
        if self.classes is not None:
            raise UserError("data.classes", "would choose among both data sets", "set data.new.init_args.classes")
        if old is None and rehearse:
            raise UserError("data.rehearse", "has no effect without old data", "set data.old, or leave rehearse out")
        if old is None and known is None:
            raise UserError("data.known", "is needed without old data", "name the network's labels in its order")
        if known is not None and (twice := [label for i, label in enumerate(known) if label in known[:i]]):
            raise UserError("data.known", f"names '{twice[0]}' twice", "name each label once, in the network's order")
        self.new = one_of("data.new", new)
        self.old = None if old is None else one_of("data.old", old)
        self.pool = None if pool is None else one_of("data.pool", pool)
        for part in self.parts:
            for name in OF_BOTH + OF_NEW if part is self.new else OF_BOTH:
                setattr(part, name, getattr(self, name))
        for part in self.parts:
            part.fewest_classes = 1
            augment_alike(self.new, part, f"data.{self._name_of(part)}")
        self.known, self.rehearse, self.ratio = known, rehearse, ratio
        self.old_in_training = 0
        """Training samples that are not of the new data: those that are rehearsed, and the pool's"""

    @property
    def parts(self) -> list[SFTDataModule]:
        """The data modules: of new samples, then, if there are some, of old ones and of the pool."""
        return [part for part in (self.new, self.old, self.pool) if part is not None]

    def old_and_unlabelled(self) -> tuple[int, int]:
        """Numbers of training samples with an old label, from whichever data, and without a label."""
        assert self.task_info is not None and "train" in self.splits
        split = self.splits["train"]
        targets = split.targets
        if self.task_info.name in PARTLY:
            assert isinstance(split.samples, Joined)
            of = [self.parts[number] for number in split.samples.part_of(split.rows)]
            return sum(part is self.old for part in of), sum(part is self.pool for part in of)
        assert targets is not None
        return int(((targets >= 0) & (targets < self.task_info.known)).sum()), int((targets < 0).sum())

    def _name_of(self, part: SFTDataModule) -> str:
        return "new" if part is self.new else "old" if part is self.old else "pool"

    def _said_of(self, part: SFTDataModule) -> str:
        """What stands behind the names of a data set's samples."""
        return "" if part is self.new else f" of the {self._name_of(part)} data"

    def load(self) -> Splits:
        """The new data's samples; `setup` puts those of both together."""
        return self.new.load()

    def load_for_prediction(self) -> Samples | None:
        return self.new.load_for_prediction()

    def setup(self, stage: str = "fit") -> None:
        """Sets both data modules up, and puts their samples together."""
        if self.splits:
            return
        if self.seed is None:
            self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        for part in self.parts:
            part.seed, part.trainer = self.seed, getattr(self, "trainer", None)
        if stage == "predict":
            self.new.setup(stage)
            if "predict" in self.new.splits:
                self.splits = self.new.splits
                return
        module = getattr(getattr(self, "trainer", None), "lightning_module", None)
        if self.pool is not None and module is not None and not getattr(module, "takes_unlabelled", False):
            raise UserError(
                "data.pool", f"has no effect with {type(module).__name__}", "use ExtendSFT, or leave it out"
            )
        for part in self.parts:
            part.setup(stage)
            behind = self._said_of(part)
            for name, samples in part.skipped.items():  # each part has warned of its own
                self._left_out.note(name, {sample + behind: why for sample, why in samples.items()}, warn=False)
        self.notes = [note for part in self.parts for note in part.notes]
        self.notes += in_one_scheme({self._name_of(p): p for p in self.parts if p is not self.pool}, self.known)
        info = self.new.task_info
        assert info is not None
        labels, known = all_labels(info, None if self.old is None else self.old.task_info, self.known)
        self.task_info = replace(info, num_outputs=len(labels), labels=labels, known=known)
        self._join(labels)

    def _join(self, labels: list[str]) -> None:
        assert self.task_info is not None
        tables, own = [], list[list[str]]()
        for part in self.parts:
            assert part.task_info is not None
            own.append([] if part is self.pool else part.task_info.labels)
            unused = [-1] * max(1, len(part.task_info.labels))
            tables.append(np.array([labels.index(label) for label in own[-1]] or unused))
        covered, sets = covers(own, labels, self.task_info.name), self.task_info.name == "multi_label"
        if covered is not None and self.old is not None and not covered.any(0).all():
            unknown = [label for label, there in zip(labels, covered.T, strict=True) if not there.any()]
            self.notes.append(f"no sample is annotated for {', '.join(unknown)}: neither trained on nor measured")
        joined: dict[tuple[int, ...], Joined] = {}
        self.total_train = sum(part.total_train for part in self.parts)
        for name in ("train", "val", "test"):
            if name not in self.new.splits:
                if self.old is not None and name in self.old.splits:
                    self.notes.append(f"the {name} samples of the old data are not used, because the new data has none")
                continue
            if self.old is not None and name not in self.old.splits:
                self.notes.append(f"the old data has no {name} samples: {name} measures samples of the new data alone")
            behind = [part.splits[name if name in part.splits else "train"] for part in self.parts]
            key, said = tuple(id(s.samples) for s in behind), [self._said_of(part) for part in self.parts]
            samples = joined.setdefault(key, Joined([s.samples for s in behind], tables, said, covered))
            rows, targets = [], []
            for part, split, table, start in zip(self.parts, behind, tables, samples.starts, strict=False):
                chosen = self._chosen(part, name)
                rows.append(split.rows[chosen] + start)
                of_part = None if part is self.pool else split.targets
                targets.append(among_all(of_part, table, chosen, len(labels) if sets else None))
            if name == "train":
                self.old_in_training = sum(map(len, rows[1:]))
            of_items = np.concatenate(targets) if sets or self.task_info.name == "classification" else None
            self.splits[name] = Split(samples, np.concatenate(rows), of_items, name == "train", name)

    def _chosen(self, part: SFTDataModule, split: str) -> np.ndarray:
        """Positions of the samples of one of the data sets that a split takes."""
        if split not in part.splits or (part is self.pool and split != "train"):
            return np.zeros(0, dtype=np.int64)
        if part is self.old and split == "train":
            return self._rehearsed()
        return np.arange(len(part.splits[split]))

    def _rehearsed(self) -> np.ndarray:
        """Positions of the old training samples that are rehearsed."""
        assert self.old is not None and self.old.task_info is not None
        split = self.old.splits["train"]
        positions = np.arange(len(split))
        if self.rehearse == "all":
            return positions
        assert isinstance(self.rehearse, int)
        if not self.rehearse:
            return positions[:0]
        labels = dict(enumerate(self.old.task_info.labels))
        try:
            if self.old.task_info.name in PARTLY:
                types = kinds_in(split, self.old.task_info.labels)
                if lacking := [n for n in kinds_of(self.old.task_info) if not any(n in of for of in types)]:
                    problem = f"no old training sample has the label '{lacking[0]}'"
                    raise UserError("data.rehearse", problem, "leave it out of data.old, or label some")
                return shots_of_types(positions, types, self.rehearse, self.subset_seed)
            return shots(positions, split.targets, self.rehearse, self.subset_seed, labels)
        except UserError as error:
            raise UserError("data.rehearse", error.problem, error.fix) from None

    # ---- meeting the network ----

    def settle(self, spec: InputSpec) -> InputView:
        """As for other data; texts are tokenised again for another tokenizer."""
        if self.spec is not None and spec.tokenizer is not self.spec.tokenizer:
            self.view = None
        return super().settle(spec)

    def prepare(self, spec: InputSpec) -> InputView:
        """Prepares all data sets in the same way."""
        view = self.new.settle(spec)
        for part in self.parts[1:] if "predict" not in self.splits else []:
            seen = part.settle(replace(spec, size=view.size or spec.size, mean=view.mean, std=view.std))
            if (seen.shape, seen.sample_rate) != (view.shape, view.sample_rate):
                raise UserError(
                    "data.old" if part is self.old else "data.pool",
                    f"its samples have the form {seen.shape}, and those of data.new {view.shape}",
                    "set image_size in both",
                )
        return view

    def device_transform(self, batch: Batch) -> Batch:
        return self.new.device_transform(batch)

    def loader(
        self, name: str, rank: int, world_size: int, accumulate: int = 1, limit: int | float = 1.0
    ) -> DataLoader[Batch]:
        """As for other data; with `ratio`, each training step has its share of old samples."""
        if name != "train" or self.ratio is None:
            return super().loader(name, rank, world_size, accumulate, limit)
        split = self.splits["train"]
        micro = micro_batch_size(self.batch_size, world_size, accumulate)
        old, seed = self.old_in_training, self.seed or 0
        overfits = getattr(getattr(self, "trainer", None), "overfit_batches", 0)
        order = MixedBatches(
            len(split) - old, old, self.ratio, micro, accumulate, rank, world_size, seed, reshuffle=not overfits
        )
        order.resume_at(*self._resume_at)
        self._resume_at = (0, 0)
        return loader_of(split, order, self.num_workers, seed)

    def found(self) -> dict[str, Any]:
        """Adds the largest share of unknown tokens of any of the data, if it is large."""
        unknown = [part.found().get("unknown_tokens", 0) for part in self.parts if getattr(part, "unknown", 0)]
        return {**super().found(), **({"unknown_tokens": max(unknown)} if any(unknown) else {})}

    def remarks(self) -> list[str]:
        """Adds what each of the data sets says of itself, such as the share of texts that are truncated."""
        own = [f"{self._name_of(part)}: {part.describe()}" for part in self.parts if part.splits]
        return [*own, *super().remarks()]

    def describe(self) -> str:
        """Adds the number of old samples in each split."""
        if self.task_info is None:
            return super().describe()
        old = f"{self.task_info.known} labels known, {len(self.task_info.labels) - self.task_info.known} new"
        if "train" not in self.splits:
            return f"{super().describe()}; {old}"
        rehearsed, unlabelled = self.old_and_unlabelled()
        pool = f", {unlabelled:,} without a label" if self.pool is not None else ""
        return f"{super().describe()}; {old}, {rehearsed:,} old training samples{pool}"


def one_of(key: str, given: Any) -> SFTDataModule:
    """One of the two data sets: a data module, or its class_path and init_args. Its common settings must be the defaults."""
    if isinstance(given, Mapping) and "class_path" in given:
        try:
            cls = DATA_MODULES.load(str(given["class_path"]), SFTDataModule)
        except UserError as error:
            raise UserError(f"{key}.class_path", error.problem, error.fix) from None
        given = cls(**(given.get("init_args") or {}))
    if not isinstance(given, SFTDataModule) or isinstance(given, Extend):
        raise UserError(key, f"must be an ordinary data set, got {given!r:.80}", "give class_path and init_args")
    for name, parameter in signature(SFTDataModule.__init__).parameters.items():
        if name not in ("self", "classes") and given.arguments.get(name, parameter.default) != parameter.default:
            raise UserError(f"{key}.{name}", "belongs to both data sets", f"set data.init_args.{name}")
    return given
