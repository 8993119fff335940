"""Plain supervised fine-tuning: the baseline, and what pretrains on the source."""

from sft_lightning.modules.base import SFTModule


class PlainSFT(SFTModule):
    """L = L_task, plus the optimizer's own weight decay. No anchor.

    Fidelity: paper-exact (there is nothing to get wrong but the plumbing). Every other variant equals this one, bit for
    bit, at anchor weight 0. Drift and retention are measured here as everywhere.
    """

    fidelity = "paper-exact"
