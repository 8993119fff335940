"""Images with a mask each: fitted and moved together, so that a mask always lies on its image."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sft_lightning.core.structures import TaskInfo, Texts
from sft_lightning.data.bad_samples import BadSample, printable
from sft_lightning.data.sampler import Key
from sft_lightning.data.vision.augment import hashed_uniform
from sft_lightning.data.vision.images import shared_bytes
from sft_lightning.data.vision.masks import UNLABELLED
from sft_lightning.data.vision.palette import overlay_of, palette_image
from sft_lightning.data.vision.windowed import Windowed
from sft_lightning.tasks.region_scores import OwnMask

MOVES = ("crop", "flip", "flip_vertical")


class Masked(Windowed):
    """Images that have a mask of their size each, uint8 `[H, W]` of class numbers, UNLABELLED where there is no label.

    The whole image is resized, never cropped, so that every pixel of the mask counts: the image bilinear, the mask to the
    nearest. Training moves image and mask together, by numbers that depend on (seed, epoch, row) alone.
    """

    has_masks = True
    moves: Sequence[str] = ()
    """What training varies, of MOVES"""
    padding = 0
    """Largest shift of `crop`, in pixels"""
    overlays = False
    """Whether predictions are also drawn over their images"""
    scores_own = False
    """Whether predictions are compared with masks at their own size"""
    _kept_masks: Tensor | None = None
    _have_masks: Tensor | None = None

    @abstractmethod
    def mask(self, row: int) -> Tensor:
        """The mask as stored: uint8 `[H, W]`. Raises BadSample."""

    def size_of(self, row: int) -> tuple[int, int]:
        """Height and width of an image as stored."""
        height, width = self.read(row).shape[-2:]
        return height, width

    def resized(self, image: Tensor) -> Tensor:
        """The whole image at the network's size."""
        if self.size is None or tuple(image.shape[-2:]) == self.size:
            return image
        from torchvision.transforms.v2 import functional as v2

        resized: Tensor = v2.resize(image, list(self.size), antialias=True)
        return resized

    def set_window(self, window: int | None) -> None:
        if window != self.window:
            self._kept_masks = None
        super().set_window(window)

    def fit(self, size: tuple[int, int] | None, channels: int | None, own_view: Any = None) -> None:
        if size != self.size:
            self._kept_masks = None
        super().fit(size, channels, None)  # a view that crops would lose pixels of the mask

    def keep(self) -> None:
        super().keep()
        if self._kept is not None and self._kept_masks is None and self.has_masks:
            shape = (len(self), *self._kept.shape[-2:])
            self._kept_masks, self._have_masks = shared_bytes(shape), shared_bytes((len(self),))

    def mask_view(self, row: int, size: tuple[int, int]) -> Tensor:
        """The mask at the size of its image's view."""
        mask = self.mask(row)
        if self.window is not None:
            size = self.size or (mask.shape[0], mask.shape[1])
        if self.size is None or tuple(mask.shape) == self.size:
            return self.padded(mask, UNLABELLED)
        from torchvision.transforms.v2 import functional as v2

        # NEAREST takes the upper left pixel of those that become one, so that a mask would not lie on its image
        resized: Tensor = v2.resize(mask[None], list(size), interpolation=v2.InterpolationMode.NEAREST_EXACT)[0]
        return self.padded(resized, UNLABELLED)

    def masks(self, rows: Sequence[int], size: tuple[int, int]) -> Tensor:
        """`[B, H, W]`; kept in memory once read, if the images are. Raises BadSample for all that cannot be read."""
        kept, have, found, bad = self._kept_masks, self._have_masks, [], dict[int, str]()
        for row in rows:
            if kept is not None and have is not None and have[row]:
                found.append(kept[row])
                continue
            try:
                mask = self.mask_view(row, size)
                if tuple(mask.shape) != size:
                    raise self.bad(row, self.sizes_differ(mask.shape, size))
            except BadSample as error:
                if not self.skips:
                    raise
                bad |= error.rows
                continue
            if kept is not None and have is not None:
                kept[row], have[row] = mask, 1
            found.append(mask)
        if bad:
            raise BadSample.of(self, bad)
        return torch.stack(found)

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """`image` uint8; with masks `select`, the labelled pixels `[B, H, W]`, and `y`, their classes `[N]` in that order."""
        if train and self.window is not None:
            images, masks = self.cropped(rows, keys[0].epoch, self.window)
        else:
            images = self.views(rows)
            if not self.has_masks:
                return {"image": images}
            masks = self.masks(rows, (images.shape[-2], images.shape[-1]))
        if train and self.moves:
            images, masks = self.moved(images, masks, rows, keys[0].epoch)
        select = masks != UNLABELLED
        return {"image": images, "select": select, "y": masks[select].long()}

    def beside(self, rows: Sequence[int]) -> Texts | None:
        """The masks at their own size, if predictions are compared at it."""
        if not self.scores_own or self.size is None:
            return None
        return Texts(OwnMask(self.own_mask(row), self.size) for row in rows)

    def own_mask(self, row: int) -> np.ndarray:
        """The mask as stored, or one without labels for an image without mask. Raises BadSample."""
        if self.has_masks:
            return self.mask(row).numpy()
        return np.full(self.size_of(row), UNLABELLED, dtype=np.uint8)

    def unpadded(self, mask: np.ndarray, image: Sequence[int]) -> np.ndarray:
        return mask if self.scores_own else super().unpadded(mask, image)

    def cropped(self, rows: Sequence[int], epoch: int, window: int) -> tuple[Tensor, Tensor]:
        """A part of each image and its mask, of a window's size and anywhere in the image."""
        images, masks, bad = list[Tensor](), list[Tensor](), dict[int, str]()
        for row in rows:
            try:
                image = self.views([row])[0]
                mask = self.masks([row], (image.shape[-2], image.shape[-1]))[0]
            except BadSample as error:
                if not self.skips:
                    raise
                bad |= error.rows
                continue
            top, left = self.corner(row, epoch, self.size or self.size_of(row))
            images.append(image[:, top : top + window, left : left + window])
            masks.append(mask[top : top + window, left : left + window])
        if bad:
            raise BadSample.of(self, bad)
        return torch.stack(images), torch.stack(masks)

    def moved(self, images: Tensor, masks: Tensor, rows: Sequence[int], epoch: int) -> tuple[Tensor, Tensor]:
        """Images and masks moved together. What `crop` uncovers is black, and has no label."""
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional as v2

        streams = {number: hashed_uniform(self.seed, epoch, np.asarray(rows), number) for number in (0, 1, 2, 4)}
        made = []
        for at, (image, mask) in enumerate(zip(images, masks, strict=True)):
            pair: Any = tv_tensors.Image(image), tv_tensors.Mask(mask[None])
            if "flip" in self.moves and streams[2][at] < 0.5:
                pair = [v2.horizontal_flip(one) for one in pair]
            if "flip_vertical" in self.moves and streams[4][at] < 0.5:
                pair = [v2.vertical_flip(one) for one in pair]
            if "crop" in self.moves and self.padding:
                top, left = (int(streams[s][at] * (2 * self.padding + 1)) for s in (0, 1))
                fills, border = (0, UNLABELLED), [self.padding] * 4
                padded = [v2.pad(one, border, fill=fill) for one, fill in zip(pair, fills, strict=True)]
                pair = [v2.crop(one, top, left, *image.shape[-2:]) for one in padded]
            made.append([one.as_subclass(Tensor) for one in pair])
        return torch.stack([image for image, _ in made]), torch.stack([mask[0] for _, mask in made])

    def bad(self, row: int, why: str) -> BadSample:
        """The exception for a row that cannot be used."""
        return BadSample.of(self, {row: why})

    def sizes_differ(self, mask: Sequence[int], image: Sequence[int]) -> str:
        """Says that a mask has another size than its image."""
        return f"its mask has {'×'.join(map(str, mask))} pixels, the image {'×'.join(map(str, image))}"

    def filed(self, row: int, prediction: dict[str, Any], folder: Path, task: TaskInfo | None) -> dict[str, Any]:
        """Writes the predicted mask at its image's own size, as PNG with a palette, and the overlay if it is wanted.

        Masks of another size, that of the network's input, are enlarged to the nearest.
        """
        image = self.read(row)
        size, found = (image.shape[-1], image.shape[-2]), self.unpadded(prediction.pop("mask"), image.shape[-2:])
        if self.window is not None:  # padding has no class
            prediction["pixels"] = np.bincount(found.ravel(), minlength=len(prediction["pixels"])).tolist()
        mask = palette_image(found).resize(size, Image.Resampling.NEAREST)
        stem = f"{row:06d}-{Path(printable(self.name(row))).stem}".replace(" ", "_")
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        mask.save(folder / "masks" / f"{stem}.png")
        written = {"mask": f"masks/{stem}.png"}
        if self.overlays:
            (folder / "overlays").mkdir(parents=True, exist_ok=True)
            overlay_of(image, mask).save(folder / "overlays" / f"{stem}.png")
            written["overlay"] = f"overlays/{stem}.png"
        return {**written, **prediction}
