"""Image classification: the deterministic view, training augmentation, and the step from bytes to network input.

Workers (or the main process) hand over batches of uint8 images; crop, flip and normalisation run batched, on the device.
"""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, InputSpec, InputView
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import Range, check_arguments
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.vision.augment import hashed_uniform, shifted
from sft_lightning.data.vision.encoded import EncodedImages
from sft_lightning.data.vision.images import ArrayImages, Images, random_augmentation

__all__ = ["ArrayImages", "EncodedImages", "ImageData", "Images", "hashed_uniform"]

LARGEST_SIDE = 1 << 14  # pixels


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
        image_size: Annotated[int, Range(1, LARGEST_SIDE)] | None = None,
        augment: list[Literal["crop", "flip", "randaugment"]] | None = None,
        crop_padding: Annotated[int, Range(0, LARGEST_SIDE)] = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_arguments(ImageData.__init__, locals())
        self.image_size, self.augment, self.crop_padding = image_size, list(augment or []), crop_padding
        self._stats: tuple[Tensor, Tensor] | None = None
        self._reverse = False

    def prepare(self, spec: InputSpec) -> InputView:
        """Sets size, channels, view and normalisation: the network's if it has them, else the data's."""
        if spec.kind != "image":
            problem = f"{spec.network} takes text, {type(self).__name__} has images"
            raise UserError("network", problem, "choose another network or other data")
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
            images.randaugment = random_augmentation() if "randaugment" in self.augment else None
        return InputView(
            size=size,
            mean=tuple(mean),
            std=tuple(std),
            view=own_view.to_dict() if own_view is not None else None,
            reverse_channels=spec.reverse_channels,
            shape=self.shape_seen(),
            size_of_data=self.image_size is not None,
        )

    def shape_seen(self) -> tuple[int, int, int] | None:
        """Channels, height and width of the network's input; None if no sample can be read."""
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
        """Turns uint8 into normalised float, with crop and flip in training: batched, on the device."""
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
