"""Vega, Vega-Lite and vega-embed as one script, kept on disk: making it takes a second of CPU time."""

from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from sft_lightning.core.cache_folder import cache_folder
from sft_lightning.runs.directory import write_atomic


@cache
def vega() -> str:
    """The script, which sets `vegaEmbed`: from the file of this version of vl-convert, or made and kept there."""
    try:
        file = cache_folder("page") / f"vega-{version('vl-convert-python')}.js"
    except RuntimeError:  # this user has no home
        return bundled()
    if (held := kept(file)) is not None:
        return held
    made = bundled()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, f"// {digest(made)}\n{made}")
    except OSError:  # a folder that cannot be written, or a full disk: it is made again next time
        pass
    return made


def bundled() -> str:
    """The script, made anew."""
    import vl_convert

    made: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return made


def kept(file: Path) -> str | None:
    """The script in a file; None if there is none, or it is damaged."""
    try:
        first, _, text = file.read_bytes().decode().partition("\n")
    except (OSError, ValueError):
        return None
    return text if first == f"// {digest(text)}" else None


def digest(text: str) -> str:
    """What the first line of a whole file says of the rest."""
    return sha256(text.encode()).hexdigest()
