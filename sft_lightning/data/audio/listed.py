"""Sounds that a table lists: one row for each file, with its label and whatever else is known of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.audio.sounds import Sounds
from sft_lightning.data.listed_files import below, file_column, groups_of, listed_files
from sft_lightning.data.split_column import Only, by_split, chosen
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.labels import class_names, class_numbers

__all__ = ["FILE_COLUMNS", "Listed", "below", "chosen", "file_column_of", "files_of", "groups_of", "kept_rows"]

FILE_COLUMNS = ("file_name", "file", "audio_filepath", "path", "audio", "filename")


def file_column_of(table: Table, named: str | None) -> str:
    """The column with the files: the one named, else the first of FILE_COLUMNS that the table has."""
    return file_column(table, named, FILE_COLUMNS)


def kept_rows(table: Table, only: Only | None) -> Table:
    """The rows whose columns have the values of `only`. Raises UserError if a value, or every row, is missing."""
    rows = list(range(len(table)))
    for column, values in (only or {}).items():
        wanted = {str(value) for value in values}
        held = [str(value) for value in table.column(column, "data.only")]
        rows = [row for row in rows if held[row] in wanted]
        if unknown := sorted(wanted - set(held)):
            raise UserError(
                "data.only",
                f"{table.where}: column '{column}' has no '{unknown[0]}'{nearest(unknown[0], sorted(set(held)))}",
                f"use values of {', '.join(sorted(set(held))[:8])}",
            )
    if not rows:
        raise UserError("data.only", f"keeps no row of {table.where}", "name other values")
    if len(rows) == len(table):
        return table
    said = "; ".join(f"{column}: {', '.join(map(str, values))}" for column, values in (only or {}).items())
    kept = chosen(table, rows)
    kept.notes = [*table.notes, f"{table.where}: {len(rows):,} of {len(table):,} rows are kept ({said})"]
    return kept


def files_of(table: Table, column: str, folder: Path, option: str) -> list[Path]:
    """The file of each row, which must lie below `folder`, that the key `option` sets; an empty path in rows left out."""
    return listed_files(table, column, folder, "sound", option)


class Listed:
    """How tables that list sounds are read.

    Args:
        file_column, label_column, group_column: Names of columns; None for defaults.
        only: Rows to keep.
        labels: Classes in order; None for those of the training table.
        option: The key that sets the folder of the files; empty if none does.
    """

    def __init__(
        self,
        file_column: str | None = None,
        label_column: str | None = None,
        group_column: str | None = None,
        only: Only | None = None,
        labels: Sequence[str] | None = None,
        option: str = "",
    ) -> None:
        self.file_column, self.label_column, self.group_column = file_column, label_column or "label", group_column
        self.only, self.labels, self.option = only, labels, option

    def sounds(self, table: Table, folder: Path, classes: Sequence[str] | None) -> Sounds:
        """The sounds of a table, with their classes if these are given."""
        paths = files_of(table, file_column_of(table, self.file_column), folder, self.option)
        numbered = self.labels is not None or self.label_column in table.names
        targets = None if classes is None else class_numbers(table, self.label_column, classes, numbered)
        return Sounds(paths, targets, folder, table.bad, groups_of(table, self.group_column))

    def splits(
        self, tables: Mapping[str, Table], folder: Mapping[str, Path]
    ) -> tuple[dict[str, Sounds], list[str], list[str]]:
        """(the sounds of each split, the classes, notes)."""
        kept, folder = by_split({split: kept_rows(t, self.only) for split, t in tables.items()}, folder, self.only)
        train = kept["train"]
        # first, because a row without a file is left out and names no class
        files_of(train, file_column_of(train, self.file_column), folder["train"], self.option)
        classes = class_names(train, self.label_column, self.labels)
        found = {split: self.sounds(table, folder[split], classes) for split, table in kept.items()}
        return found, classes, list(dict.fromkeys(note for table in kept.values() for note in table.notes))
