"""What is known of data before any of it is trained on: the block of a config, and what it holds."""

from dataclasses import dataclass, field
from math import ceil
from typing import Any

from sft_lightning.core.errors import UserError

KINDS = {"image": "images", "text": "texts with labels", "tokens": "instructions with answers"}
MOST_TEST, MOST_VAL, SHARE, LEAST = 5000, 1000, 0.2, 10


@dataclass
class Overrides:
    """What the user says of the data, instead of having it inferred."""

    task: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    image_column: str | None = None


@dataclass
class DataPlan:
    """A data block and what it holds. Counts are of samples that can be used."""

    kind: str
    """'image', 'text' or 'tokens'"""
    task: str
    """'classification', 'regression' or 'causal_lm'"""
    block: dict[str, Any]
    """`data:` of a config"""
    train: int
    """Samples of the training file or folder, before anything is set aside"""
    val: int | None = None
    """Samples of a validation split of the data's own"""
    test: int | None = None
    counts: dict[str, int] = field(default_factory=dict)
    """Training samples of each class, in class order"""
    pixels: int | None = None
    """Shorter side of the largest of some images; None where not looked at"""
    variance: float = 0.0
    """Of the training values of a regression"""
    texts: list[str] = field(default_factory=list)
    """Some of the texts or conversations, whole"""
    lines: list[str] = field(default_factory=list)

    def set_aside(self, test_share: float = SHARE, val_share: float = SHARE) -> None:
        """Sets the block's shares for testing and validation where the data has no such splits."""
        init = self.block["init_args"]
        if self.train < LEAST:
            raise UserError(
                "--data", f"{self.train} samples are too few to learn from, to choose by and to test on: label more"
            )
        if self.test is None:
            init["test_fraction"] = round(min(test_share, MOST_TEST / self.train), 4)
        if self.val is None:
            init["val_fraction"] = round(min(val_share, MOST_VAL / self.train), 4)

    @property
    def labelled(self) -> int:
        """Samples to learn from once test and validation are set aside, about."""
        init, left = self.block["init_args"], float(self.train)
        for name in ("test_fraction", "val_fraction"):
            left *= 1 - init.get(name, 0.0)
        return max(1, round(left))

    @property
    def fewest(self) -> int:
        """Samples to learn from of the rarest class, at least."""
        init, left = self.block["init_args"], min(self.counts.values(), default=self.train)
        for name in ("test_fraction", "val_fraction"):
            left -= ceil(left * init.get(name, 0.0))
        return left


def fits(kinds: tuple[str, ...], found: tuple[str, ...], network: str, what: str) -> None:
    """Raises UserError where the network takes none of what was found."""
    if not set(kinds) & set(found):
        wanted = " or ".join(KINDS[k] for k in kinds)
        raise UserError(
            "--data", f"{what}, and the network {network} takes {wanted}", "choose another network or other data"
        )


def check_classes(where: str, what: str, plan: DataPlan) -> None:
    """Raises UserError for one class alone; says which are rare."""
    present = [name for name, count in plan.counts.items() if count]
    if len(present) < 2:
        only = f" ('{present[0]}')" if present else ""
        raise UserError("--data", f"{where}: {what} has {len(present)} class{only}, at least 2 are needed")
    if rare := [name for name, count in plan.counts.items() if count < 5]:
        some = ", ".join(rare[:6]) + (", …" if len(rare) > 6 else "")
        plan.lines.append(f"fewer than 5 samples of {len(rare)} classes ({some}): some splits may lack them")


def classes_said(plan: DataPlan) -> str:
    """`3 classes: cat 40, dog 38, elk 2`."""
    most = sorted(plan.counts.items(), key=lambda item: -item[1]) if len(plan.counts) > 8 else list(plan.counts.items())
    shown = ", ".join(f"{name} {count:,}" for name, count in most[:8])
    return f"{len(plan.counts)} classes: {shown}" + (", …" if len(plan.counts) > 8 else "")
