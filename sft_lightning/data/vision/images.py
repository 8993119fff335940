"""Images that are read one by one, fitted to the network's input, and kept as bytes."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from mmap import mmap
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import View
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.findings import content
from sft_lightning.data.fingerprints import tensor_digest
from sft_lightning.data.sampler import Key
from sft_lightning.data.samples import Samples
from sft_lightning.data.vision.augment import hashed_uniform


class Images(Samples):
    """Images that can be read one by one, resized to one shape and kept as uint8 `[C, H, W]`."""

    KEEP_BYTES = 2 << 30

    def __init__(self, targets: np.ndarray | None) -> None:
        self.targets = targets
        self.size: tuple[int, int] | None = None
        self.channels: int | None = None
        self.own_view: View | None = None
        self.notes: list[str] = []  # what reading left out or guessed
        self.randaugment: Callable[[Tensor], Tensor] | None = None
        self.seed = 0
        self._kept: Tensor | None = None
        self._have: Tensor | None = None
        self._first = 0  # the row whose view gave the shape of all

    @abstractmethod
    def read(self, row: int) -> Tensor:
        """The image as stored: uint8 `[C, H, W]`."""

    def fit(self, size: tuple[int, int] | None, channels: int | None, own_view: View | None = None) -> None:
        """Sets the form of `view`: height and width in pixels, number of channels, and the network's own view."""
        if (size, channels, own_view) != (self.size, self.channels, self.own_view):
            self.size, self.channels, self.own_view, self._kept = size, channels, own_view, None
        if not self.as_they_are:
            import torchvision.transforms.v2  # noqa: F401  here, once, rather than in each worker that forks

    @property
    def as_they_are(self) -> bool:
        """Whether it is known that the network wants the size and channels that all images have."""
        return False

    def keep(self) -> None:
        """Makes room for all views, if they fit. Called before workers fork, so that they share it."""
        if self._kept is None and len(self):
            self._first, image = next(self.readable(range(len(self))))
            shape = (len(self), *image.shape)
            if prod(shape) <= self.KEEP_BYTES:
                self._kept, self._have = shared_bytes(shape), shared_bytes((len(self),))

    def view(self, row: int) -> Tensor:
        """The deterministic view of one row."""
        return self.fitted(self.read(row), row)

    def fitted(self, image: Tensor, row: int) -> Tensor:
        """Fits `[…, C, H, W]` to the network: repeats grey as colour, then applies the network's own view, or else resizes
        the shorter side and crops the centre.
        """
        if self.own_view is None:
            return self.repeated(self.resized(image), row)
        image = self.repeated(image, row)
        every = [self.own_view(one) for one in image.reshape(-1, *image.shape[-3:])]
        return torch.stack(every) if image.ndim == 4 else every[0]

    def resized(self, image: Tensor) -> Tensor:
        """Resizes the shorter side to `size`, bilinear, and crops the centre."""
        if self.size is None or tuple(image.shape[-2:]) == self.size:
            return image
        from torchvision.transforms.v2 import functional as v2

        height, width = self.size
        scale = max(height / image.shape[-2], width / image.shape[-1])
        shape = [max(height, round(image.shape[-2] * scale)), max(width, round(image.shape[-1] * scale))]
        resized = v2.resize(image, shape, antialias=True)
        cropped: Tensor = v2.center_crop(resized, [height, width])
        return cropped

    def repeated(self, image: Tensor, row: int) -> Tensor:
        """Repeats grey as colour, if the network takes colour."""
        if self.channels is None or image.shape[-3] == self.channels:
            return image
        if image.shape[-3] != 1:
            raise UserError(
                "network",
                f"takes {self.channels} channels, {self.name(row)} has {image.shape[-3]}",
                "choose another network or other images",
            )
        return image.repeat_interleave(self.channels, dim=-3)

    def readable(self, rows: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Yields rows with their views. Raises BadSample for the first unreadable row; if they are skipped, at the end for
        all of them.
        """
        bad: dict[int, str] = {}
        for row in rows:
            try:
                image = self.view(row)
            except BadSample as error:
                if not self.skips:
                    raise
                bad |= error.rows
            else:
                yield row, image
        if bad:
            raise BadSample.of(self, bad)

    def views(self, rows: Sequence[int]) -> Tensor:
        """`[B, C, H, W]` uint8; kept in memory once read, if the views of all rows fit."""
        if self._kept is None or self._have is None:
            images = [image for _, image in self.readable(rows)]
            for row, image in zip(rows, images, strict=True):
                self.check_shape(row, image, rows[0], images[0])
            return torch.stack(images)
        at = torch.tensor(rows)
        for row, image in self.readable(at[self._have[at] == 0].tolist()):
            self.check_shape(row, image, self._first, self._kept[0])
            self._kept[row], self._have[row] = image, 1
        return self._kept[at]

    def check_shape(self, row: int, image: Tensor, other: int, first: Tensor) -> None:
        """Raises UserError if two images of a batch differ in shape."""
        if image.shape != first.shape:
            here, there = ("×".join(str(n) for n in i.shape[1:]) for i in (image, first))
            raise UserError(
                "data",
                f"{self.name(row)} has {here} pixels, {self.name(other)} {there}",
                "set data.init_args.image_size",
            )

    def raw(self, row: int) -> dict[str, Any]:
        return {"image": self.read(row)}

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        images = self.views(rows)
        if train and self.randaugment is not None:
            numbers = hashed_uniform(self.seed, keys[0].epoch, np.asarray(rows), 3)
            changed = []
            with torch.random.fork_rng(devices=[]):
                for image, number in zip(images, numbers, strict=True):
                    torch.manual_seed(int(number * 2**53))
                    changed.append(self.randaugment(image))
            images = torch.stack(changed)
        return {"image": images}


class ArrayImages(Images):
    """Images in memory: uint8 `[N, C, H, W]`."""

    def __init__(self, images: Tensor, targets: np.ndarray) -> None:
        super().__init__(targets)
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int) -> Tensor:
        return self.images[row]

    @property
    def as_they_are(self) -> bool:
        same_size = self.size in (None, tuple(self.images.shape[2:]))
        return self.own_view is None and same_size and self.channels in (None, self.images.shape[1])

    def keep(self) -> None:
        if not self.as_they_are:
            super().keep()

    def views(self, rows: Sequence[int]) -> Tensor:
        if not self.as_they_are and self._kept is not None:
            return super().views(rows)
        return self.fitted(self.images[torch.tensor(rows)], rows[0])

    def digest(self) -> bytes:
        return tensor_digest(self.images)

    def contents(self) -> np.ndarray:
        if self._contents is None:
            rows = (content(np.ascontiguousarray(image).tobytes()) for image in self.images.numpy())
            self._contents = np.fromiter(rows, dtype=np.uint64, count=len(self))
        return self._contents

    _contents: np.ndarray | None = None


def random_augmentation() -> Callable[[Tensor], Tensor]:
    """RandAugment with torchvision's settings."""
    from torchvision.transforms.v2 import RandAugment

    made: Callable[[Tensor], Tensor] = RandAugment()
    return made


def shared_bytes(shape: Sequence[int]) -> Tensor:
    """uint8 zeros in memory that forked processes share, allocated as it is used."""
    return torch.frombuffer(mmap(-1, prod(shape)), dtype=torch.uint8).view(*shape)
