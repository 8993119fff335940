"""Shows samples on pages and in W&B: names, excerpts of texts, small pictures, and a table of changed samples."""

import base64
import io
from pathlib import Path
from typing import Any

from torch import Tensor

from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError
from sft_lightning.data.bad_samples import printable
from sft_lightning.data.base import Samples

SIDE, LETTERS = 96, 300  # pixels of a picture's longer side, characters of a text
PARAGRAPH = 3000  # characters of a text that holds an answer


def table_of(changed: list[dict[str, Any]]) -> Any:
    """The changed samples as a table of W&B, with what was said before and after."""
    import wandb

    known = ("name", "question", "text", "words", "label", "before", "after", "score_before", "score_after")
    columns = [n for n in known if any(n in entry for entry in changed)]
    rows = [[" ".join(v) if isinstance(v := entry.get(n), list) else v for n in columns] for entry in changed]
    return wandb.Table(columns=columns, data=rows)


def short(name: str) -> str:
    """A sample's name. An absolute path is cut to its folder and file, so that a report does not reveal a machine's paths."""
    parts = Path(name).parts
    return printable(redaction.redact("/".join(parts[-2:]) if Path(name).is_absolute() else name))


def seen(samples: Samples, row: int) -> dict[str, Any]:
    """A sample as it is stored, before preprocessing: `image` (data URI), `text` or `words`, if it has one of them."""
    from sft_lightning.data.vision.base import Images

    if isinstance(samples, Images):
        try:
            return {"image": data_uri(samples.read(row))}
        except (UserError, OSError):  # the file was readable before, and no longer is
            return {}
    return {name: readable(held) for name, held in samples.shown(row).items()}


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
