"""Loads folders that `save_to_disk` of `datasets` wrote."""

from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError

SAVED = ("dataset_dict.json", "state.json")
"""Files of such a folder, for several splits or one table"""


def is_saved(path: str | Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    here = Path(path).expanduser()
    return any((here / name).is_file() for name in SAVED)


def load_saved(path: str) -> dict[str, Any]:
    """Split name to table; a single table is train."""
    import datasets

    try:
        found = datasets.load_from_disk(str(Path(path).expanduser()))
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError("data.path", f"{path} cannot be loaded: {said[0]}", "save it again with save_to_disk") from None
    return dict(found) if isinstance(found, dict) else {"train": found}
