"""Loads a plan's files with the class that `fit` uses, so that errors and counts are those of `fit`."""

from sft_lightning.autoconfig.data_plan import DataPlan
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.base import SFTDataModule, Splits

FEW_BAD = 0.05
"""Largest share of training rows that cannot be used and are left out; more rows are an error"""


def load_as_fit_does(plan: DataPlan, cls: type[SFTDataModule]) -> Splits:
    """Loads, and sets the plan's sizes and lines. A few rows that cannot be used are left out; of many, the first raises."""
    init = plan.block["init_args"]
    try:
        loaded = cls(**init).load()
    except UserError as error:
        try:
            loaded = cls(**init, on_bad_sample="skip").load()
        except UserError:  # of what is left without the rows, which says less
            raise error from None
        bad = sum(len(samples.bad_rows()) for samples in loaded.each())
        if not bad or len(loaded.train.bad_rows()) > FEW_BAD * len(loaded.train):
            raise error from None
        init["on_bad_sample"] = "skip"
        left = "is left out" if bad == 1 else "are left out"
        plan.lines.append(
            f"{plural(bad, 'row')} that cannot be used {left} (--data.on_bad_sample skip): {error.problem}"
        )
    plan.lines += loaded.notes
    for split, samples in (("train", loaded.train), ("val", loaded.val), ("test", loaded.test)):
        if samples is not None:
            setattr(plan, split, len(samples) - len(samples.bad_rows()))
    return loaded
