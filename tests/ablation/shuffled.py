"""Digits whose test labels are shuffled: nothing that is chosen may change by it."""

import numpy as np

from sft_lightning.data import Digits


class ShuffledTest(Digits):
    """Digits, with the labels of the test split shuffled where `shuffled` is set.

    Args:
        shuffled: Shuffle them.
    """

    def __init__(self, shuffled: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.shuffled = shuffled

    def setup(self, stage: str = "fit") -> None:
        if self.splits:
            return
        super().setup(stage)
        if self.shuffled:
            targets = self.splits["test"].targets
            self.splits["test"].targets = np.random.default_rng(0).permutation(targets)
