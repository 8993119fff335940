"""Files that a table lists, one in each row: the column that names them, their places, and groups of rows."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.data.text.files import Table
from sft_lightning.data.vision.paths import outside, real


def file_column(table: Table, named: str | None, among: Sequence[str]) -> str:
    """The column with the files: the one named, else the first of `among` that the table has."""
    if named is not None:
        table.column(named, "data.file_column")
        return named
    found = next((name for name in among if name in table.columns), None)
    if found is None:
        here = ", ".join(table.columns)
        raise UserError(
            "data", f"{table.where} has no column {' or '.join(among)}, only {here}", "set data.file_column"
        )
    return found


def listed_files(table: Table, column: str, folder: Path, what: str, option: str) -> list[Path]:
    """The file of each row, which must lie below `folder`; an empty path in rows that are left out.

    Args:
        table: The rows.
        column: The files' names.
        folder: The folder from which names are written.
        what: What a file is, in messages.
        option: The key that sets the folder; empty if none does.
    """
    top, found = os.path.join(os.path.realpath(folder), ""), []
    for row, name in enumerate(table.texts(column, "data.file_column")):
        place = real(os.path.join(folder, os.path.expanduser(name))) if name else ""
        if name and not place.startswith(top):
            problem = f"{table.name(row)}: the {what} {name!r} {outside(str(folder), name, place)} the folder {folder}"
            holder = folder_of(name, place)
            fix = f"set {option} to {holder}, or " if holder and option else ""
            raise UserError("data", problem, f"{fix}copy the {what}s there, not as links (cp --dereference)")
        inside = below(folder, name) if name else ""
        found.append(folder / (os.path.expanduser(name) if inside.startswith("..") else inside) if name else Path())
    return found


def folder_of(name: str, place: str) -> str:
    """A folder from which a file at `place` can be named as it is named; empty if a link has given it another name."""
    written = os.path.normpath(os.path.expanduser(name))
    if os.path.isabs(written) or written.startswith(".."):
        return os.path.dirname(place) if os.path.basename(written) == os.path.basename(place) else ""
    return place.removesuffix(written).rstrip(os.sep) if place.endswith(os.sep + written) else ""


def below(root: Path, name: str) -> str:
    """A file's path below `root`, which may be written from there, with steps such as `./`, or whole."""
    return os.path.relpath(root / os.path.expanduser(name), root)


def groups_of(table: Table, column: str | None) -> np.ndarray | None:
    """`[rows]` group numbers of a column's values; None without a column."""
    if column is None:
        return None
    numbers: dict[str, int] = {}
    values = table.column(column, "data.group_column")
    return np.array([numbers.setdefault(str(value), len(numbers)) for value in values], dtype=np.int64)
