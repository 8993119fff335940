"""Shows samples on pages and in W&B: names, excerpts of texts, small pictures, short sounds, and a table of changed samples."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sft_lightning.callbacks.overlays import NAMES, picture_of
from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError
from sft_lightning.data.bad_samples import printable
from sft_lightning.data.base import Samples

SIDE, LETTERS = 96, 300  # pixels of a picture's longer side, characters of a text
PARAGRAPH = 3000  # characters of a text that holds an answer
MOST_SOUND = 60_000
"""Characters of a sound in base64, about 10 s of MP3; longer sounds are named alone"""


def table_of(changed: list[dict[str, Any]]) -> Any:
    """The changed samples as a table of W&B: what was said before and after, pictures of it, and players for short sounds."""
    import wandb

    known = ("name", "question", "choices", "text", "words", "label", "before", "after", "score_before", "score_after")
    columns = [n for n in known if any(n in entry for entry in changed)]
    rows: list[list[Any]] = [[cell(named(entry).get(column)) for column in columns] for entry in changed]
    if any("sound" in entry for entry in changed):
        columns.insert(1, "sound")
        for row, entry in zip(rows, changed, strict=True):
            row.insert(1, wandb.Audio(*decoded(entry["sound"]), caption=entry["name"]) if "sound" in entry else None)
    for name, called in NAMES.items():
        uris = [entry.get("pictures", {}).get(name) for entry in changed]
        if any(uris):
            columns.append(f"picture {called}")
            for row, uri in zip(rows, uris, strict=True):
                row.append(wandb.Image(picture_of(uri)) if uri else None)
    return wandb.Table(columns=columns, data=rows)


def cell(held: Any) -> Any:
    """A value of a changed sample for a cell of a table."""
    return " ".join(held) if isinstance(held, list) else held


def named(entry: dict[str, Any]) -> dict[str, Any]:
    """A changed sample, with the texts of choices instead of their places, and its choices on lines of their own."""
    choices = entry.get("choices")
    if entry.get("form") != "choice" or not isinstance(choices, list):
        return entry
    places = {str(at): text for at, text in enumerate(choices)}
    said: dict[str, Any] = {
        key: places.get(str(entry[key]), entry[key]) for key in ("before", "after", "label") if key in entry
    }
    return {**entry, "choices": "\n".join(choices), **said}


def short(name: str) -> str:
    """A sample's name. An absolute path is cut to its folder and file, so that a report does not reveal a machine's paths."""
    parts = Path(name).parts
    return printable(redaction.redact("/".join(parts[-2:]) if Path(name).is_absolute() else name))


def seen(samples: Samples, row: int) -> dict[str, Any]:
    """A sample as it is stored, before preprocessing: `image` (data URI), `sound` (data URI, as the network hears it, if it is
    short), `text`, `words`, or `question` and `choices`, if it has one of them.
    """
    from sft_lightning.data.audio.sounds import Sounds
    from sft_lightning.data.vision.base import Images

    if isinstance(samples, Images):
        try:
            return {"image": data_uri(samples.read(row))}
        except (UserError, OSError):  # the file was readable before, and no longer is
            return {}
    shown: dict[str, Any] = {name: readable(held) for name, held in samples.shown(row).items()}
    if isinstance(samples, Sounds) and samples.rate:
        try:
            uri = sound_uri(samples.sound(row), samples.rate)
        except UserError:
            return shown
        return {**shown, **({} if uri is None else {"sound": uri})}
    return shown


def readable(said: Any) -> Any:
    """What is said, for a file: a text is cut, and so is a list of texts for words."""
    return [excerpt(str(one)) for one in said[:LETTERS]] if isinstance(said, list) else excerpt(str(said))


def excerpt(*texts: str) -> str:
    """The beginning of a text, or of a pair, unescaped."""
    whole = "\n".join(text[: LETTERS + 1] for text in texts)
    return printable(whole if len(whole) <= LETTERS else whole[: LETTERS - 1] + "…")[:LETTERS]


def data_uri(image: Tensor) -> str:
    """A uint8 image `[C, H, W]` as PNG; small ones are magnified by a whole number, large ones reduced to fit."""
    from PIL import Image

    pixels = (image if image.shape[0] == 3 else image[:1]).cpu().permute(1, 2, 0)
    times = max(1, SIDE // max(image.shape[1:]))
    magnified = pixels.repeat_interleave(times, 0).repeat_interleave(times, 1)
    picture = Image.fromarray(magnified.squeeze(-1).numpy() if magnified.shape[-1] == 1 else magnified.numpy())
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def sound_uri(values: np.ndarray, rate: int) -> str | None:
    """A sound `[T]` as MP3, or as WAV where there is no MP3 of its rate; None if that is longer than MOST_SOUND."""
    import soundfile  # type: ignore[import-untyped]

    for kind, name in (("MP3", "mpeg"), ("WAV", "wav")):
        file = io.BytesIO()
        try:
            soundfile.write(file, np.clip(values, -1.0, 1.0), rate, format=kind)
        except (RuntimeError, ValueError):  # soundfile's errors are RuntimeErrors
            continue
        uri = f"data:audio/{name};base64," + base64.b64encode(file.getvalue()).decode()
        return uri if len(uri) <= MOST_SOUND else None
    return None


def decoded(uri: str) -> tuple[np.ndarray, int]:
    """The sound of `sound_uri` and its rate."""
    import soundfile

    values, rate = soundfile.read(io.BytesIO(base64.b64decode(uri.partition(",")[2])), dtype="float32")
    return values, int(rate)
