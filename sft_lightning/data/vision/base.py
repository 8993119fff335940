"""Image classification: the deterministic view, training augmentation, and the step from bytes to network input.

Workers (or the main process) hand over batches of uint8 images; crop, flip and normalisation run batched, on the
device. Every random choice is a function of (seed, epoch, row), never of a worker's random stream.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from sft_lightning.data.base import Samples, SFTDataModule
from sft_lightning.data.sampler import Key
from sft_lightning.errors import UserError
from sft_lightning.networks.base import Network
from sft_lightning.tasks import Batch

Augment = Literal["crop", "flip", "randaugment"]


def hashed_uniform(seed: int, epoch: int, rows: np.ndarray, stream: int) -> np.ndarray:
    """Numbers in [0, 1), one per row, that depend on (seed, epoch, row, stream) alone (SplitMix64's finaliser)."""
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) + np.uint64(1)
        for salt in (seed, epoch, stream):
            z = (z + np.uint64(salt & 0xFFFFFFFF)) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
    uniform: np.ndarray = (z >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return uniform


class Images(Samples):
    """Images that can be read one by one, resized to one shape and kept as uint8 `[C, H, W]`."""

    KEEP_BYTES = 2 << 30

    def __init__(self, targets: np.ndarray | None) -> None:
        self.targets = targets
        self.size: tuple[int, int] | None = None
        self.channels: int | None = None
        self.randaugment: v2.RandAugment | None = None
        self.seed = 0
        self._kept: Tensor | None = None
        self._have: np.ndarray | None = None

    @abstractmethod
    def read(self, row: int) -> Tensor:
        """The image as stored: uint8 `[C, H, W]`."""

    def fit(self, size: tuple[int, int] | None, channels: int | None) -> None:
        """Fixes what `view` returns: height and width in pixels, number of channels."""
        self.size, self.channels, self._kept = size, channels, None

    def view(self, row: int) -> Tensor:
        """The deterministic view: shorter side resized, centre cropped; grey repeated where colour is wanted."""
        image = self.read(row)
        if self.size is not None and tuple(image.shape[1:]) != self.size:
            height, width = self.size
            scale = max(height / image.shape[1], width / image.shape[2])
            shape = [max(height, round(image.shape[1] * scale)), max(width, round(image.shape[2] * scale))]
            image = v2.functional.center_crop(v2.functional.resize(image, shape, antialias=True), [height, width])
        if self.channels is not None and image.shape[0] != self.channels:
            if image.shape[0] != 1:
                raise UserError(
                    f"network and data do not fit: the network takes {self.channels} channels, "
                    f"{self.name(row)} has {image.shape[0]}"
                )
            image = image.repeat(self.channels, 1, 1)
        return image

    def views(self, rows: Sequence[int]) -> Tensor:
        """`[B, C, H, W]` uint8; kept in memory once read, where all of them fit."""
        first = self.view(rows[0]) if self._kept is None else self._kept[0]
        if self._kept is None and self.size is not None and first.numel() * len(self) <= self.KEEP_BYTES:
            self._kept = torch.empty((len(self), *first.shape), dtype=torch.uint8)
            self._have = np.zeros(len(self), dtype=bool)
        if self._kept is None or self._have is None:
            return torch.stack([self.view(r) for r in rows])
        for row in rows:
            if not self._have[row]:
                self._kept[row] = self.view(row)
                self._have[row] = True
        return self._kept[torch.tensor(rows)]

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

    def views(self, rows: Sequence[int]) -> Tensor:
        same_size = self.size in (None, tuple(self.images.shape[2:]))
        if same_size and self.channels in (None, self.images.shape[1]):
            return self.images[torch.tensor(rows)]
        return super().views(rows)

    def digest(self) -> bytes:
        from sft_lightning.data.base import tensor_digest

        return tensor_digest(self.images)


class ImageData(SFTDataModule):
    """Images with one label each.

    Args:
        image_size: Height and width the network sees, in pixels; default the network's own, else the data's.
        augment: What varies between epochs: crop (shift by up to crop_padding pixels), flip (left-right), randaugment.
        crop_padding: Largest shift of crop, in pixels, each way.
        **kwargs: Subset, split, batches; see Digits.
    """

    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    def __init__(
        self,
        image_size: int | None = None,
        augment: list[Literal["crop", "flip", "randaugment"]] | None = None,
        crop_padding: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size, self.augment, self.crop_padding = image_size, list(augment or []), crop_padding
        self._stats: tuple[Tensor, Tensor] | None = None
        if unknown := set(self.augment) - {"crop", "flip", "randaugment"}:
            raise UserError(f"data: augment has no '{unknown.pop()}'; there are crop, flip, randaugment")

    def prepare(self, network: Network) -> None:
        """Size, channels and normalisation: the network's where it has them, else the data's."""
        assert self.spec is not None
        if self.spec.kind != "image":
            raise UserError(f"network {type(network).__name__} takes text, {type(self).__name__} has images")
        size = (self.image_size, self.image_size) if self.image_size is not None else self.spec.size
        mean, std = self.spec.mean or self.mean, self.spec.std or self.std
        if self.spec.channels is not None and len(mean) != self.spec.channels:
            mean, std = (sum(mean) / len(mean),) * self.spec.channels, (sum(std) / len(std),) * self.spec.channels
        self._stats = (torch.tensor(mean) * 255).view(-1, 1, 1), (torch.tensor(std) * 255).view(-1, 1, 1)
        for split in self.splits.values():
            images = split.samples
            assert isinstance(images, Images)
            images.fit(size, self.spec.channels)
            images.seed = self.seed or 0
            images.randaugment = v2.RandAugment() if "randaugment" in self.augment else None
        network.input_config = {"mean": list(mean), "std": list(std), "size": list(size) if size else None}

    def finish(self, batch: Batch) -> Batch:
        """uint8 to normalised float, with crop and flip in training: batched, on the device."""
        assert self._stats is not None
        image: Tensor = batch["x"]["image"]
        if image.dtype != torch.uint8:
            return batch
        if batch["train"]:
            rows = batch["index"].cpu().numpy()

            def numbers(stream: int) -> np.ndarray:
                return hashed_uniform(self.seed or 0, batch["epoch"], rows, stream)

            if "crop" in self.augment and self.crop_padding:
                steps = 2 * self.crop_padding + 1
                shift = np.stack([(numbers(s) * steps).astype(np.int64) for s in (0, 1)])
                image = shifted(image, torch.from_numpy(shift).to(image.device), self.crop_padding)
            if "flip" in self.augment:
                flip = torch.from_numpy(numbers(2) < 0.5).to(image.device)
                image = torch.where(flip[:, None, None, None], image.flip(-1), image)
        mean, std = (t.to(image.device) for t in self._stats)
        batch["x"]["image"] = (image.to(torch.float32) - mean) / std
        return batch


def shifted(image: Tensor, offset: Tensor, padding: int) -> Tensor:
    """Crops `[B, C, H, W]`, zero-padded on all sides, at `offset[2, B]` in [0, 2·padding]: one gather for the batch."""
    batch, _, height, width = image.shape
    padded = F.pad(image, (padding,) * 4)
    ys = offset[0][:, None] + torch.arange(height, device=image.device)
    xs = offset[1][:, None] + torch.arange(width, device=image.device)
    at = torch.arange(batch, device=image.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[at, ys[:, :, None], xs[:, None, :]].permute(0, 3, 1, 2)
