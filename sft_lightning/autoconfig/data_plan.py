"""Describes data for the default study: its config block, task, class counts and splits."""

from dataclasses import dataclass, field
from math import ceil
from typing import Any

from sft_lightning.autoconfig.kinds import KINDS
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural

MOST_TEST, MOST_VAL, SHARE, LEAST = 5000, 1000, 0.2, 10


@dataclass
class Overrides:
    """The user's options on the data, which replace what would be inferred."""

    task: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    image_column: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of the data module, as `--set data.NAME=VALUE` gives them"""
    fewest_classes: int = 2
    """Classes that there must be; 1 if they are added to a network's own"""


@dataclass
class DataPlan:
    """A data block and a description of its content. All counts are of usable samples."""

    kind: str
    """One of KINDS"""
    task: str
    """Name of the task"""
    block: dict[str, Any]
    """The `data` block of a config"""
    train: int
    """Samples of the training file or folder, before a share is set aside"""
    val: int | None = None
    """Samples of the data's own validation split; None without one"""
    test: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    """Training samples of each class, in class order; of tags, words"""
    labels: list[str] = field(default_factory=list)
    """Names of the outputs, for tasks without classes whose metrics depend on them, and of several numbers"""
    pixels: int | None = None
    """Shorter side of the largest of some images, in pixels; None if unknown"""
    variance: float = 0.0
    """Variance of a regression's training values"""
    texts: list[str] = field(default_factory=list)
    """Some of the texts or conversations, uncut"""
    lines: list[str] = field(default_factory=list)

    @property
    def outputs(self) -> int:
        """Outputs of a network for the task; 0 if the network knows."""
        known = KINDS[self.kind].tasks.get(self.task)
        if self.task == "regression" and self.labels:
            return len(self.labels)
        return len(self.counts) if known is None else known

    @property
    def where(self) -> str:
        """The training file or folder."""
        init = self.block["init_args"]
        found = (
            init.get("train")
            or init.get("data_files", {}).get("train")
            or init.get("root")
            or init.get("path")
            or "the data"
        )
        return found if isinstance(found, str) else ", ".join(found)

    def set_aside(self, test_share: float = SHARE, val_share: float = SHARE, option: str = "--data") -> None:
        """Sets the block's test and validation shares if the data lacks these splits."""
        init = self.block["init_args"]
        if self.train < LEAST:
            ends = ", in which blank lines end sentences" if self.kind == "words" else ""
            problem = f"{self.where}, read as {KINDS[self.kind].says}{ends}, has {plural(self.train, 'sample')}"
            fix = f"label at least {LEAST}, or set --task if it is something else"
            raise UserError(option, f"{problem}, too few to train, validate and test", fix)
        if self.test is None and init.get("test_fraction") is None:
            init["test_fraction"] = round(min(test_share, MOST_TEST / self.train), 4)
        if self.val is None and init.get("val_fraction") is None:
            init["val_fraction"] = round(min(val_share, MOST_VAL / self.train), 4)

    def complete(self, labels: list[str]) -> None:
        """Names all tags of a source head, some of which may not occur in the data, or the classes of masks by its names."""
        if self.kind == "masks" and len(labels) == len(self.counts) and all(name.isdigit() for name in self.counts):
            self.counts = dict(zip(labels, self.counts.values(), strict=True))
            self.block["init_args"]["labels"] = labels
        if self.kind == "words" and set(self.counts) < set(labels):
            self.counts = {label: self.counts.get(label, 0) for label in labels}
            self.block["init_args"]["labels"] = labels

    @property
    def keeps_outputs(self) -> bool:
        """Whether networks keep their output layer for such data, as those that write texts do."""
        return KINDS[self.kind].keeps_outputs

    @property
    def labelled(self) -> int:
        """About how many samples are left for training once test and validation are set aside."""
        init, left = self.block["init_args"], float(self.train)
        for name in ("test_fraction", "val_fraction"):
            left *= 1 - (init.get(name) or 0.0)
        left *= init.get("train_fraction") or 1.0
        if (shots := init.get("shots_per_class")) is not None and self.counts:
            left = min(left, shots * len(self.counts))
        return max(1, round(left))

    @property
    def fewest(self) -> int:
        """Lower bound on the training samples of the rarest class once test and validation are set aside."""
        init, left = self.block["init_args"], min(self.counts.values(), default=self.train)
        for name in ("test_fraction", "val_fraction"):
            left -= ceil(left * (init.get(name) or 0.0))
        left = int(left * (init.get("train_fraction") or 1.0))
        return min(left, init.get("shots_per_class") or left)


def fits(
    kinds: tuple[str, ...],
    found: tuple[str, ...],
    network: str,
    what: str,
    fix: str = "choose another network or other data",
) -> None:
    """Raises UserError if the network takes no kind of data in `found`; `what` describes the data."""
    if not set(kinds) & set(found):
        wanted = " or ".join(KINDS[k].says for k in kinds)
        raise UserError("--data", f"{what}, but the network {network} takes {wanted}", fix)


def check_classes(where: str, what: str, plan: DataPlan, fewest: int = 2) -> None:
    """Raises UserError for fewer than `fewest` classes, one or two; adds a line on rare classes."""
    present = [name for name, count in plan.counts.items() if count]
    if len(present) < fewest:
        only = f" ('{present[0]}')" if present else ""
        found = "1 class" if present else "no classes"
        raise UserError("--data", f"{where}: {what} has {found}{only}", "use data with at least 2 classes")
    if rare := [name for name, count in plan.counts.items() if count < 5]:
        some = ", ".join(rare[:6]) + (", …" if len(rare) > 6 else "")
        classes = "1 class has" if len(rare) == 1 else f"{len(rare)} classes have"
        plan.lines.append(f"{classes} fewer than 5 samples ({some}); some splits may lack samples of them")


def classes_said(plan: DataPlan, noun: tuple[str, str] = ("class", "es")) -> str:
    """Number of classes and their counts: `3 classes: cat 40, dog 38, elk 2`; `noun` has its plural's ending."""
    most = sorted(plan.counts.items(), key=lambda item: -item[1]) if len(plan.counts) > 8 else list(plan.counts.items())
    shown = ", ".join(f"{name} {count:,}" for name, count in most[:8])
    return f"{plural(len(plan.counts), *noun)}: {shown}" + (", …" if len(plan.counts) > 8 else "")
