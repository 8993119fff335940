"""scikit-learn's digits in colour, which can reveal the label: to measure what a network looks at and forgets."""

import colorsys
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.base import ArrayImages, ImageData, hashed_uniform
from sft_lightning.data.vision.digits import Digits

Colour = Literal["label", "random", "grey"]
COLOURS = torch.tensor([colorsys.hsv_to_rgb(i / 10, 1.0, 1.0) for i in range(10)])
"""`[10, 3]` red, green and blue in [0, 1]: ten hues evenly apart, at full brightness; the i-th is class i's."""


class ColouredDigits(ImageData):
    """scikit-learn's digits in ten colours: colour can reveal the label, and shape always does. Splits as in Digits.

    Each image keeps its brightness: the largest of red, green and blue is the grey image. An image's colour is a
    function of its row and class alone, whatever the seeds and the split. The validation split is coloured like the
    training samples, since it is cut from them: settings that are chosen on it know nothing of other colourings.

    Args:
        colour: How training and validation samples are coloured: label (each class has a colour), random (any of the
            ten, whatever the class) or grey.
        correlation: Share of the samples coloured by label that have their class's colour; the others have one of the
            other nine.
        test_colour: How the test samples are coloured; default as the training samples.
        **kwargs: Size and augmentation, subset, split, batches; see Digits.
    """

    mean = (0.0, 0.0, 0.0)
    std = (1.0, 1.0, 1.0)

    def __init__(
        self, colour: Colour = "label", correlation: float = 1.0, test_colour: Colour | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.colour, self.correlation, self.test_colour = colour, correlation, test_colour
        for name, value in (("colour", colour), ("test_colour", test_colour or colour)):
            if value not in ("label", "random", "grey"):
                raise UserError(f"data.{name}", f"unknown value '{value}'", "use label, random or grey")
        if not 0 <= correlation <= 1:
            raise UserError("data.correlation", f"must be in [0, 1], got {correlation}")

    def load(self) -> Splits:
        grey = Digits().load()
        assert isinstance(grey.train, ArrayImages) and isinstance(grey.test, ArrayImages)
        return Splits(
            train=self.coloured(grey.train, self.colour, 0),
            test=self.coloured(grey.test, self.test_colour or self.colour, 1),
            labels=grey.labels,
        )

    def coloured(self, grey: ArrayImages, colour: Colour, part: int) -> ArrayImages:
        """The images `[N, 1, H, W]` as `[N, 3, H, W]`; `part` tells training samples (0) from test samples (1)."""
        assert grey.targets is not None
        numbers = colour_numbers(grey.targets, colour, self.correlation, part)
        light = grey.images.repeat(1, 3, 1, 1) if numbers is None else paint(grey.images, COLOURS[numbers])
        return ArrayImages(light, grey.targets)


def colour_numbers(targets: np.ndarray, colour: Colour, correlation: float, part: int) -> Tensor | None:
    """`[N]` which of COLOURS each row of a part has; None for grey."""
    if colour == "grey":
        return None
    rows = np.arange(len(targets))
    if colour == "random":
        return torch.from_numpy((hashed_uniform(0, part, rows, 1) * len(COLOURS)).astype(np.int64))
    others = 1 + (hashed_uniform(0, part, rows, 2) * (len(COLOURS) - 1)).astype(np.int64)
    own = hashed_uniform(0, part, rows, 3) < correlation
    return torch.from_numpy(np.where(own, targets, (targets + others) % len(COLOURS)))


def paint(grey: Tensor, colours: Tensor) -> Tensor:
    """uint8 `[N, 1, H, W]` in the colours `[N, 3]`: brightness stays, to the byte."""
    return (grey.float() * colours[:, :, None, None]).round().to(torch.uint8)
