"""Sounds without labels at one place, a file or a folder, to predict on."""

from pathlib import Path

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.audio.reading import SOUNDS
from sft_lightning.data.audio.sounds import Sounds
from sft_lightning.data.vision.walk import LeftOut, images_below


def sounds_at(path: str) -> Sounds:
    """The sound in a file, or all below a folder, sorted by path. Raises UserError if there is none."""
    place = Path(path).expanduser()
    if place.is_file():
        return Sounds([place], None, place.parent)
    if not place.is_dir():
        here = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        raise UserError("data.predict", f"{path} does not exist{nearest(place.name, here)}", "name a sound or a folder")
    if not (paths := images_below(place, LeftOut(SOUNDS))):
        kinds = ", ".join(SOUNDS.suffixes)
        raise UserError("data.predict", f"{place} has no sounds ({kinds})", "use another folder")
    return Sounds(paths, None, place)
