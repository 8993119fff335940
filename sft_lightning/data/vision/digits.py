"""scikit-learn's handwritten digits: 1,797 grey images of 8 × 8 pixels that ship with the package."""

import gzip
from importlib.util import find_spec
from pathlib import Path

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
        values, targets = read_digits()
        images = torch.from_numpy(np.round(values * (255 / 16)).astype(np.uint8))[:, None]
        train, test = cut(np.arange(len(targets)), targets, 0.25, "data")
        return Splits(
            train=ArrayImages(images[train], targets[train]),
            test=ArrayImages(images[test], targets[test]),
            labels=[str(i) for i in range(10)],
        )


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """`[1797, 8, 8]` values from 0 to 16, and `[1797]` digits: scikit-learn's `load_digits`, without importing all of it."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    with gzip.open(Path(package.origin).parent / "datasets/data/digits.csv.gz", "rt", encoding="utf-8") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
