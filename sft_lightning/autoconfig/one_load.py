"""Loads a plan's files with the class that `fit` uses, so that errors and counts are those of `fit`."""

from inspect import signature
from typing import Any

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.base import SFTDataModule, Splits
from sft_lightning.data.text.base import TokenData

FEW_BAD = 0.05
"""Largest share of training rows that cannot be used and are left out; more rows are an error"""

FILES = ("path", "config", "train", "val", "test", "predict")


def load_as_fit_does(plan: DataPlan, cls: type[SFTDataModule], said: Overrides) -> Splits:
    """Loads, and sets the plan's sizes and lines. A few rows that cannot be used are left out; of many, the first raises,
    unless the user sets `on_bad_sample`.
    """
    init, why = plan.block["init_args"], ""
    init |= settings_of(cls, said)
    try:
        loaded = cls(**init).load()
    except UserError as error:
        if "on_bad_sample" in init or (skipped := without_bad_rows(cls, init)) is None:
            raise
        loaded, why = skipped, f": {error.problem}"
        init["on_bad_sample"] = "skip"
    if bad := sum(len(samples.bad_rows()) for samples in loaded.each()):
        left = "is left out" if bad == 1 else "are left out"
        plan.lines.append(f"{plural(bad, 'row')} that cannot be used {left} (--data.on_bad_sample skip){why}")
    plan.lines += loaded.notes
    for split, samples in (("train", loaded.train), ("val", loaded.val), ("test", loaded.test)):
        if samples is not None:
            setattr(plan, split, len(samples) - len(samples.bad_rows()))
    return loaded


def without_bad_rows(cls: type[SFTDataModule], init: dict[str, Any]) -> Splits | None:
    """What is left without a few rows that cannot be used; None if they are many, or not the reason for an error."""
    try:
        loaded = cls(**init, on_bad_sample="skip").load()
    except UserError:
        return None
    few = len(loaded.train.bad_rows()) <= FEW_BAD * len(loaded.train)
    return loaded if few and any(samples.bad_rows() for samples in loaded.each()) else None


def settings_of(cls: type[SFTDataModule], said: Overrides) -> dict[str, Any]:
    """The user's settings that say how files are read, but not which, or to how many tokens."""
    own = signature(cls.__init__).parameters.keys() - signature(TokenData.__init__).parameters.keys() - set(FILES)
    return {name: value for name, value in said.settings.items() if name in own or name == "on_bad_sample"}
