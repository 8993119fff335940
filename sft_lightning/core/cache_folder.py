"""Where files lie that can be made again, for all runs of this user: SFT_CACHE_DIR, else ~/.cache/sft_lightning."""

import os
from pathlib import Path


def cache_folder(what: str) -> Path:
    """The folder of one kind of files, which may not exist yet."""
    return Path(os.environ.get("SFT_CACHE_DIR") or "~/.cache/sft_lightning").expanduser() / what
