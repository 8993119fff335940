"""Converts a decoded file to 8 bits a channel: one rule for all formats, so that equal pictures give equal numbers.

- Upright by its EXIF orientation; the first image of an animation or a file of several pages; colour profiles and gamma
  are not applied.
- 16 bits of grey: v / 257, rounded. (Pillow itself reads 16 bits of colour, and keeps the high byte of each.)
- 32-bit integers whose largest is 256 to 65535: as 16 bits. Floats in [0, 1]: v · 255, rounded. No file states the range of
  other 32-bit integers and floats: they are refused, with their smallest and largest value.
- Transparency, of a channel, a palette or a key colour: composed on white.
- CMYK, YCbCr, HSV, palettes and 1 bit: as Pillow converts them.
"""

import numpy as np
from PIL import ExifTags, Image, ImageOps

WHITE_IS_ZERO, PHOTOMETRIC = 0, 262  # TIFF's value for negatives, and its tag


class OutOfRange(ValueError):
    """The range of the pixels' values is unknown."""


def pixels_of(image: Image.Image, grey: bool) -> np.ndarray:
    """uint8 `[H, W]` of an open image where `grey`, else `[H, W, 3]`. Raises OutOfRange, naming the values."""
    image.load()  # some formats have their EXIF data at the end
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image  # which copies all pixels
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        upright = eight_bits(upright, image)
    elif upright.has_transparency_data:
        upright = on_white(upright)
    if grey and upright.mode not in ("1", "L"):
        upright = upright.convert("RGB")  # Pillow has no way from CMYK to grey
    wanted = "L" if grey else "RGB"
    return np.array(upright if upright.mode == wanted else upright.convert(wanted))


def eight_bits(upright: Image.Image, source: Image.Image) -> Image.Image:
    """Converts grey of more than 8 bits to 8 bits."""
    values = np.asarray(upright)
    if upright.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise OutOfRange(f"holds floats from {values.min():g} to {values.max():g}, but only 0 to 1 can be read")
        return Image.fromarray(np.rint(values.astype(np.float64) * 255).astype(np.uint8))
    low, high = int(values.min()), int(values.max())
    stated = upright.mode != "I" or source.format in ("PPM", "PNG")  # these scale to 16 bits, or have them
    if low < 0 or high > 65535 or (high < 256 and not stated):
        raise OutOfRange(
            f"holds 32-bit integers from {low} to {high}, whose range is unknown: save it with 8 or 16 bits"
        )
    light = ((values.astype(np.uint32) * 2 + 257) // 514).astype(np.uint8)  # v / 257, rounded
    if getattr(source, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        light = 255 - light
    if isinstance(key := upright.info.get("transparency"), int):
        light = np.where(values == key, np.uint8(255), light)
    return Image.fromarray(light)


def on_white(image: Image.Image) -> Image.Image:
    """Composes a transparent image on white."""
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def several_frames(head: bytes) -> bool:
    """Whether a file that begins so may hold several images: GIF, TIFF, WebP, MPO and PNG with an animation chunk."""
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or head[:4] == b"GIF8":
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return head[12:16] == b"VP8X" and bool(head[20] & 2)
    return head[:4] == b"\x89PNG" and b"acTL" in head
