"""Data sets of torchvision that fit in memory: the common part of MNIST and CIFAR."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar
from urllib.error import URLError

import numpy as np
import torch

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.base import ArrayImages, ImageData


class InMemoryImages(ImageData, base=True):
    """A data set of torchvision.datasets with a train and a test part.

    Args:
        root: Folder that holds the data set, in torchvision's layout, or will hold it once downloaded.
        download: Fetch the data set if root does not have it.
        **kwargs: Size and augmentation, subset, split, batches; see Digits.
    """

    dataset: ClassVar[str]
    """Name in torchvision.datasets."""
    files: ClassVar[str]
    """Files to put into root, for messages."""

    def __init__(self, root: str = "data", download: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root, self.download = root, download

    def load(self) -> Splits:
        train, test = self.part(True), self.part(False)
        return Splits(as_images(train), test=as_images(test), labels=[str(c) for c in train.classes])

    def part(self, train: bool) -> Any:
        """Torchvision's data set of one part."""
        from torchvision import datasets

        make = getattr(datasets, self.dataset)
        root = Path(self.root).expanduser()
        try:
            return make(root, train=train)
        except (RuntimeError, OSError, UnpicklingError):  # absent, incomplete, or a wrong file
            if not self.download:
                raise UserError(
                    "data",
                    f"{root.resolve()} does not hold {self.dataset}, or damaged",
                    f"set data.init_args.download true, or put {self.files} there",
                ) from None
        try:
            return make(root, train=train, download=True)
        except (RuntimeError, URLError, OSError, UnpicklingError) as error:
            why = str(error).strip().splitlines()[-1]
            raise UserError(
                "data",
                f"{self.dataset} is not in {root.resolve()} and cannot be downloaded ({why})",
                f"put {self.files} there",
            ) from None


def as_images(part: Any) -> ArrayImages:
    """From `[N, H, W]` or `[N, H, W, C]` uint8."""
    pixels = torch.as_tensor(part.data)
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return ArrayImages(pixels, np.asarray(part.targets, dtype=np.int64))
