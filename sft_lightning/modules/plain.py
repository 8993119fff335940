"""Plain supervised fine-tuning: the baseline, also used to pretrain on the source task."""

from sft_lightning.modules.base import SFTModule


class PlainSFT(SFTModule):
    """L = L_task, plus the optimizer's own weight decay. No anchor.

    Fidelity: paper-exact, as there is no anchor to get wrong. Every other trained variant equals this one, bit for bit, at
    anchor weight 0. Drift and retention are measured as in all variants.
    """

    fidelity = "paper-exact"
