"""Images that have a mask in a file or in a column each."""

from abc import abstractmethod
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sft_lightning.data.bad_samples import BadSample, printable
from sft_lightning.data.vision.encoded import DAMAGE, EncodedImages
from sft_lightning.data.vision.image_folder import FileImages
from sft_lightning.data.vision.masked import Masked
from sft_lightning.data.vision.masks import UNLABELLED, MaskRule, UnknownValue, raw_values

ORIENTATION = 0x0112  # EXIF's tag


class Encoded(Protocol):
    """An encoded mask, such as a file. Its text names it."""

    def open(self, mode: str, /) -> Any: ...


class MaskedRows(Masked, EncodedImages):
    """Encoded images with an encoded mask each."""

    rule: MaskRule | None
    """The classes of masks' values; None without masks"""
    refused: dict[int, str]
    """Rows that loading found unusable, and why"""

    @abstractmethod
    def encoded_mask(self, row: int) -> Encoded | None:
        """The mask of a row; None for an image that lacks one."""

    def bad_rows(self) -> dict[int, str]:
        return self.refused

    def mask(self, row: int) -> Tensor:
        assert self.rule is not None
        file = self.encoded_mask(row)
        if file is None:
            raise self.bad(row, "it has no mask")
        try:
            with file.open("rb") as stream:
                raw = raw_values(stream, self.rule.colours)
            mask = torch.from_numpy(self.rule.classes(raw))
        except UnknownValue as error:
            raise self.bad(row, str(error)) from None
        except DAMAGE as error:
            wrong = self.damaged(row, error)
            if not isinstance(wrong, BadSample):
                raise wrong from None
            raise self.bad(row, f"its mask {printable(Path(str(file)).name)}: {wrong.rows[row]}") from None
        # Views have one size, resized or padded, so that only the files' own sizes can differ.
        if self.size is not None or self.window is not None:
            image = self.size_of(row)
            if tuple(mask.shape) != image:
                raise self.bad(row, self.sizes_differ(mask.shape, image))
        return mask

    def size_of(self, row: int) -> tuple[int, int]:
        """Height and width of an upright image; its pixels are decoded only if it may have to be turned."""
        with self.open(row) as stream, Image.open(stream) as image:
            turned = image.getexif().get(ORIENTATION, 1) != 1
            width, height = (ImageOps.exif_transpose(image) if turned else image).size  # Pillow turns TIFF on its own
            return height, width

    @property
    def one_size(self) -> bool:
        return self.size is not None or len({size for row in range(len(self)) if (size := self.known_size(row))}) < 2

    def known_size(self, row: int) -> tuple[int, int] | None:
        """Height and width of an image; None if it cannot be read."""
        try:
            return self.size_of(row)
        except DAMAGE:
            return None

    def types_in(self) -> list[frozenset[str]]:
        """The classes in each image's mask; none where it cannot be read."""
        assert self.rule is not None
        found = []
        for row in range(len(self)):
            try:
                numbers = np.unique(self.mask(row).numpy()).tolist()
            except BadSample:
                numbers = []
            found.append(frozenset(self.rule.labels[n] for n in numbers if n != UNLABELLED))
        return found

    def digest(self) -> bytes:
        """Hash of images, masks and the classes of masks' values."""
        if self._of_pairs is None:
            digest = sha256(EncodedImages.digest(self))
            for row in range(len(self) if self.has_masks else 0):
                try:
                    digest.update(self.digest_of_mask(row))
                except OSError:
                    digest.update(b"unreadable")
            digest.update(repr(self.rule).encode())
            self._of_pairs = digest.digest()
        return self._of_pairs

    _of_pairs: bytes | None = None

    def digest_of_mask(self, row: int) -> bytes:
        """Hash of a mask's file."""
        file = self.encoded_mask(row)
        if file is None:
            return b"none"
        with file.open("rb") as stream:
            return sha256(stream.read()).digest()


class MaskedFiles(MaskedRows, FileImages):
    """Image files with a mask file each.

    Args:
        root: Folder that names are given below.
        paths: The images.
        masks: The mask of each image, None for an image that lacks one; None for images to predict on.
        rule: The classes of masks' values.
    """

    def __init__(self, root: Path, paths: list[Path], masks: list[Path | None] | None, rule: MaskRule | None) -> None:
        FileImages.__init__(self, root, paths, None)
        self.files, self.rule, self.has_masks = masks, rule, masks is not None
        self.refused = {}

    def encoded_mask(self, row: int) -> Path | None:
        return None if self.files is None else self.files[row]
