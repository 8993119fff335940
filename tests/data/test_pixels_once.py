"""Pixels are copied once, and are those of copies made for each rule."""

from io import BytesIO

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from sft_lightning.data.vision.pixels import pixels_of


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "YCbCr"])
@pytest.mark.parametrize("orientation", [None, 0, 1, 3, 6, 8, 9])
def test_pixels_are_those_of_an_upright_copy(mode: str, orientation: int | None) -> None:
    values = np.random.default_rng(0).integers(0, 255, (7, 5, 3), dtype=np.uint8)
    exif, file = Image.Exif(), BytesIO()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(values).convert(mode).save(file, "JPEG", exif=exif)
    for grey in (False, True):
        with Image.open(BytesIO(file.getvalue())) as image:
            copy = ImageOps.exif_transpose(image)
            theirs = copy if not grey or mode == "L" else copy.convert("RGB")
            expected = np.array(theirs.convert("L" if grey else "RGB"))
        with Image.open(BytesIO(file.getvalue())) as image:
            found = pixels_of(image, grey)
        assert found.flags.writeable
        np.testing.assert_array_equal(found, expected)
