"""Images in files or in columns of bytes, decoded on request."""

import errno
import struct
import zlib
from abc import abstractmethod
from hashlib import blake2b, sha256
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.vision.images import Images
from sft_lightning.data.vision.pixels import pixels_of, several_frames

DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError),
    *(SyntaxError, NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What decoders raise on damaged files."""
MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # errors of the machine, not of the file


class EncodedImages(Images):
    """Images in files or in a column of bytes, decoded on request: grey for one channel, else RGB."""

    frames = 0
    """Files found to hold several images, of which the first is used"""

    @abstractmethod
    def open(self, row: int) -> BinaryIO:
        """The encoded image."""

    @abstractmethod
    def key(self, row: int) -> str:
        """Identifies the row besides its bytes, for instance by its path below the root."""

    def read(self, row: int) -> Tensor:
        try:
            with self.open(row) as stream, Image.open(stream) as image:
                pixels = torch.from_numpy(pixels_of(image, grey=self.channels == 1))
        except DAMAGE as error:
            raise self.damaged(row, error) from None
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)

    def damaged(self, row: int, error: BaseException) -> BaseException:
        """The exception for a row that cannot be read."""
        if getattr(error, "errno", None) in MACHINE:
            return error
        said = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
        why = "it is damaged, or not an image" if isinstance(error, UnidentifiedImageError) else said
        return BadSample.of(self, {row: " ".join(why.split())})

    def digest(self) -> bytes:
        """Hash of every row's key and bytes, computed once. Rows that may be skipped count as 'unreadable'."""
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
    """Number of images in a file: frames of an animation, or pages. 0 if they cannot be counted."""
    stream.seek(0)
    try:
        with Image.open(stream) as image:
            return int(getattr(image, "n_frames", 1))
    except DAMAGE:
        return 0
