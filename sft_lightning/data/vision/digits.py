"""scikit-learn's handwritten digits: 1,797 grey images of 8 × 8 pixels that ship with the package."""

import numpy as np
import torch

from sft_lightning.data.base import Splits
from sft_lightning.data.subset import cut
from sft_lightning.data.vision.base import ArrayImages, ImageData


class Digits(ImageData):
    """The embedded default: ten digits, no download. A quarter, stratified, is always the test split."""

    mean = (0.0,)
    std = (1.0,)

    def load(self) -> Splits:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8))[:, None]
        targets = digits.target.astype(np.int64)
        train, test = cut(np.arange(len(targets)), targets, 0.25, "data")
        return Splits(
            train=ArrayImages(images[train], targets[train]),
            test=ArrayImages(images[test], targets[test]),
            labels=[str(i) for i in range(10)],
        )
