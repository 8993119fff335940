"""Finds images that a table names by path instead of holding their bytes; they must lie below the table's folder."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError


def folders_of(path: str | None, files: list[str]) -> list[str]:
    """Folders in which a table's images may lie: the folder given, those of its files, or the caches of the hub."""
    if path is not None and Path(path).expanduser().is_dir():
        return [str(Path(path).expanduser())]
    if files:
        return sorted({os.path.dirname(file) or "." for file in files})
    from datasets import config
    from huggingface_hub import constants

    return [str(config.HF_DATASETS_CACHE), str(config.DOWNLOADED_DATASETS_PATH), str(constants.HF_HUB_CACHE)]


def named_files(table: Any, column: str, folders: list[str], split: str) -> dict[int, str]:
    """File of each row whose cell has a path and no bytes. Raises UserError for the first outside the folders."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.compute as pc  # type: ignore[import-untyped]

    cells = table.with_format("arrow")[:][column]
    kind = cells.type
    if not pa.types.is_struct(kind) or not {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}:
        return {}
    paths = pc.struct_field(cells, "path")
    without_bytes = pc.and_(pc.is_null(pc.struct_field(cells, "bytes")), pc.is_valid(paths))
    rows = pc.indices_nonzero(without_bytes).to_pylist()
    named = paths.filter(without_bytes).to_pylist()
    return {row: below(folders, path, f"row {row} of {split}") for row, path in zip(rows, named, strict=True)}


def below(folders: list[str], path: str, row: str) -> str:
    """The file that `path` names, relative to one of the folders or absolute; its true place must be in one of them."""
    places = [real(os.path.join(folder, path)) for folder in folders]
    inside = [p for p, f in zip(places, folders, strict=True) if p.startswith(os.path.join(os.path.realpath(f), ""))]
    if not inside:
        raise UserError(
            "data",
            f"{row}: its image {path!r} {outside(folders[0], path, places[0])} the data's folder {folders[0]}",
            "copy the images there, not as links (cp --dereference)",
        )
    return next((p for p in inside if os.path.exists(p)), inside[0])


def outside(folder: str, name: str, place: str) -> str:
    """`lies outside`, or, of a file whose true place `place` is not what its name below `folder` says, where a link leads."""
    written = os.path.normpath(os.path.join(os.path.realpath(folder), os.path.expanduser(name)))
    return "lies outside" if place == written else f"is a link to {place}, outside"


def real(path: str) -> str:
    """As os.path.realpath, quick if many files share a folder."""
    place = os.path.join(real_folder(os.path.dirname(path)), os.path.basename(path))
    return os.path.realpath(place) if os.path.islink(place) or os.path.basename(path) in ("", ".", "..") else place


@lru_cache(maxsize=1024)
def real_folder(path: str) -> str:
    """os.path.realpath of a folder."""
    return os.path.realpath(path)
