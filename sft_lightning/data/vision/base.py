"""Image classification: the deterministic view, training augmentation, and the step from bytes to network input.

Workers (or the main process) hand over batches of uint8 images; crop, flip and normalisation run batched, on the
device. Every random choice is a function of (seed, epoch, row), never of a worker's random stream.
"""

import errno
import struct
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b, sha256
from math import prod
from mmap import mmap
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms import v2

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, View
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.base import Samples, SFTDataModule, tensor_digest
from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.vision.fits import check_shape_fits, note_view
from sft_lightning.data.vision.pixels import pixels_of, several_frames
from sft_lightning.data.vision.walk import plural
from sft_lightning.networks.base import Network

Augment = Literal["crop", "flip", "randaugment"]
DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError),
    *(SyntaxError, NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What decoders raise on damaged files."""
LARGEST_SIDE = 1 << 14
MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # troubles of the machine's, not of the file's


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
        self.own_view: View | None = None
        self.notes: list[str] = []  # what of the files was left out or guessed, in words
        self.randaugment: v2.RandAugment | None = None
        self.seed = 0
        self._kept: Tensor | None = None
        self._have: Tensor | None = None
        self._first = 0  # the row whose view showed the shape of all

    @abstractmethod
    def read(self, row: int) -> Tensor:
        """The image as stored: uint8 `[C, H, W]`."""

    def fit(self, size: tuple[int, int] | None, channels: int | None, own_view: View | None = None) -> None:
        """Fixes what `view` returns: height and width in pixels, number of channels, and the network's own way there."""
        if (size, channels, own_view) != (self.size, self.channels, self.own_view):
            self.size, self.channels, self.own_view, self._kept = size, channels, own_view, None

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
        """`[…, C, H, W]`: grey repeated where colour is wanted, then the network's own view, or else the shorter side
        resized and the centre cropped.
        """
        if self.own_view is None:
            return self.repeated(self.resized(image), row)
        image = self.repeated(image, row)
        every = [self.own_view(one) for one in image.reshape(-1, *image.shape[-3:])]
        return torch.stack(every) if image.ndim == 4 else every[0]

    def resized(self, image: Tensor) -> Tensor:
        """The shorter side to `size`, bilinear, and the centre of that."""
        if self.size is None or tuple(image.shape[-2:]) == self.size:
            return image
        height, width = self.size
        scale = max(height / image.shape[-2], width / image.shape[-1])
        shape = [max(height, round(image.shape[-2] * scale)), max(width, round(image.shape[-1] * scale))]
        resized = v2.functional.resize(image, shape, antialias=True)
        cropped: Tensor = v2.functional.center_crop(resized, [height, width])
        return cropped

    def repeated(self, image: Tensor, row: int) -> Tensor:
        """Grey as colour, where the network takes colour."""
        if self.channels is None or image.shape[-3] == self.channels:
            return image
        if image.shape[-3] != 1:
            raise UserError(
                f"network and data do not fit: the network takes {self.channels} channels, "
                f"{self.name(row)} has {image.shape[-3]}"
            )
        return image.repeat_interleave(self.channels, dim=-3)

    def readable(self, rows: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Rows with their views. BadSample for one that cannot be read; at the end and for all, where they are skipped."""
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
        """`[B, C, H, W]` uint8; kept in memory once read, where all of them fit."""
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
        """Images of one batch have one shape."""
        if image.shape != first.shape:
            here, there = ("×".join(str(n) for n in i.shape[1:]) for i in (image, first))
            raise UserError(
                f"data: {self.name(row)} has {here} pixels, {self.name(other)} {there}: set data.init_args.image_size"
            )

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
        """Whether the network wants the size and channels that the images have."""
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


class EncodedImages(Images):
    """Images in files or in a column of bytes, decoded when asked for: grey for one channel, else RGB."""

    frames = 0
    """Files found to hold several images, of which the first is used"""

    @abstractmethod
    def open(self, row: int) -> BinaryIO:
        """The encoded image."""

    @abstractmethod
    def key(self, row: int) -> str:
        """What identifies the row besides its bytes: its place below the root, for instance."""

    def read(self, row: int) -> Tensor:
        try:
            with self.open(row) as stream, Image.open(stream) as image:
                pixels = torch.from_numpy(pixels_of(image, grey=self.channels == 1))
        except DAMAGE as error:
            raise self.damaged(row, error) from None
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)

    def damaged(self, row: int, error: BaseException) -> BaseException:
        """What to raise for a row that cannot be read."""
        if getattr(error, "errno", None) in MACHINE:
            return error
        said = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
        why = "is no image, or a damaged one" if isinstance(error, UnidentifiedImageError) else said
        return BadSample.of(self, {row: " ".join(why.split())})

    def digest(self) -> bytes:
        """Over every row's key and bytes, read in pieces; computed once. What may be skipped counts as 'unreadable'."""
        if self._digest is None:
            digest, self.frames = sha256(), 0
            contents = np.zeros(len(self), dtype=np.uint64)
            for row in range(len(self)):
                own = blake2b(digest_size=8)
                digest.update(f"{self.key(row)}\0".encode("utf-8", "surrogateescape"))
                before = digest.copy()
                try:
                    with self.open(row) as stream:
                        head = stream.read(1 << 20)
                        piece = head
                        while piece:
                            digest.update(piece)
                            own.update(piece)
                            piece = stream.read(1 << 20)
                        self.frames += several_frames(head) and frames_in(stream) > 1
                except DAMAGE as error:
                    wrong = self.damaged(row, error)
                    if not self.skips or not isinstance(wrong, BadSample):
                        raise wrong from None
                    digest = before
                    digest.update(b"unreadable")
                    own = blake2b(f"unreadable {row}".encode(), digest_size=8)
                contents[row] = int.from_bytes(own.digest(), "little")
            self._digest, self._contents = digest.digest(), contents
        return self._digest

    def contents(self) -> np.ndarray | None:
        self.digest()
        return self._contents

    _digest: bytes | None = None
    _contents: np.ndarray | None = None


def frames_in(stream: BinaryIO) -> int:
    """Images that a file holds: of an animation, or of several pages. 0 where they cannot be counted."""
    stream.seek(0)
    try:
        with Image.open(stream) as image:
            return int(getattr(image, "n_frames", 1))
    except DAMAGE:
        return 0


class ImageData(SFTDataModule, base=True):
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
        self._reverse = False
        if image_size is not None and not 1 <= image_size <= LARGEST_SIDE:
            raise UserError(f"data: image_size must be 1 to {LARGEST_SIDE} pixels, got {image_size}")
        if not 0 <= crop_padding <= LARGEST_SIDE:
            raise UserError(f"data: crop_padding must be 0 to {LARGEST_SIDE} pixels, got {crop_padding}")
        if unknown := set(self.augment) - {"crop", "flip", "randaugment"}:
            raise UserError(f"data: augment has no '{unknown.pop()}'; there are crop, flip, randaugment")

    def prepare(self, network: Network) -> None:
        """Size, channels, view and normalisation: the network's where it has them, else the data's."""
        spec = self.spec
        assert spec is not None
        if spec.kind != "image":
            raise UserError(f"network {network.name} takes text, {type(self).__name__} has images")
        size = (self.image_size, self.image_size) if self.image_size is not None else spec.size
        own_view = spec.view if spec.view is not None and spec.view.size == size else None
        mean, std = spec.mean or self.mean, spec.std or self.std
        if spec.channels is not None and len(mean) != spec.channels:
            mean, std = (sum(mean) / len(mean),) * spec.channels, (sum(std) / len(std),) * spec.channels
        self._stats = (torch.tensor(mean) * 255).view(-1, 1, 1), (torch.tensor(std) * 255).view(-1, 1, 1)
        self._reverse = spec.reverse_channels
        for split in self.splits.values():
            images = split.samples
            assert isinstance(images, Images)
            images.fit(size, spec.channels, own_view)
            images.keep()
            images.seed = self.seed or 0
            images.randaugment = v2.RandAugment() if "randaugment" in self.augment else None
        network.input_config = {"mean": list(mean), "std": list(std), "size": list(size) if size else None}
        network.input_config |= {"view": own_view.to_dict()} if own_view is not None else {}
        network.input_config |= {"reverse_channels": True} if spec.reverse_channels else {}

    def connect(self, network: Network) -> None:
        first = self.spec is None
        super().connect(network)
        if first and self.spec is not None:
            note_view(self.spec, network, self.image_size)
            check_shape_fits(network, self.shape_seen(), self.image_size)

    def shape_seen(self) -> tuple[int, int, int] | None:
        """Channels, height and width of what the network gets; None where no sample can be read."""
        samples = next(iter(self.splits.values())).samples
        assert isinstance(samples, Images)
        if samples.channels is not None and samples.size is not None:
            return (samples.channels, *samples.size)
        try:
            image = next(samples.readable(range(len(samples))))[1]
        except (BadSample, StopIteration):
            return None
        return (image.shape[0], image.shape[1], image.shape[2])

    def describe(self) -> str:
        behind = {id(split.samples): split.samples for split in self.splits.values()}
        notes: list[str] = []
        for samples in behind.values():
            assert isinstance(samples, Images)
            notes += [note for note in samples.notes if note not in notes]
        frames = 0
        for samples in behind.values():
            if isinstance(samples, EncodedImages):
                samples.digest()  # reads each file once, also for the fingerprint
                frames += samples.frames
        if frames:
            notes.append(f"{plural(frames, 'file')} of several images: the first of each is used")
        return "; ".join([super().describe(), *notes])

    def device_transform(self, batch: Batch) -> Batch:
        """uint8 to normalised float, with crop and flip in training: batched, on the device."""
        assert self._stats is not None
        image: Tensor = batch["x"]["image"]
        if image.dtype != torch.uint8:
            return batch
        if batch["train"]:
            rows = np.asarray(batch["rows"])

            def numbers(stream: int) -> np.ndarray:
                return hashed_uniform(self.seed or 0, batch["epoch"], rows, stream)

            if "crop" in self.augment and self.crop_padding:
                steps = 2 * self.crop_padding + 1
                shift = np.stack([(numbers(s) * steps).astype(np.int64) for s in (0, 1)])
                image = shifted(image, torch.from_numpy(shift).to(image.device), self.crop_padding)
            if "flip" in self.augment:
                flip = torch.from_numpy(numbers(2) < 0.5).to(image.device)
                image = torch.where(flip[:, None, None, None], image.flip(-1), image)
        if self._stats[0].device != image.device:
            self._stats = (self._stats[0].to(image.device), self._stats[1].to(image.device))
        mean, std = self._stats
        image = image.flip(1) if self._reverse else image
        batch["x"]["image"] = (image.to(torch.float32) - mean) / std
        return batch


def shared_bytes(shape: Sequence[int]) -> Tensor:
    """Zeros of uint8 in memory that forked processes share, taken as it is used."""
    return torch.frombuffer(mmap(-1, prod(shape)), dtype=torch.uint8).view(*shape)


def shifted(image: Tensor, offset: Tensor, padding: int) -> Tensor:
    """Crops `[B, C, H, W]`, zero-padded on all sides, at `offset[2, B]` in [0, 2·padding]: one gather for the batch."""
    batch, _, height, width = image.shape
    padded = F.pad(image, (padding,) * 4)
    ys = offset[0][:, None] + torch.arange(height, device=image.device)
    xs = offset[1][:, None] + torch.arange(width, device=image.device)
    at = torch.arange(batch, device=image.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[at, ys[:, :, None], xs[:, None, :]].permute(0, 3, 1, 2)
