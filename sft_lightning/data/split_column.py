"""Divides a table that lists files by its column `split`, whose values name splits: train, validation, test."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.split_names import split_of
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.files import Table

Only = Mapping[str, Sequence[Any]]
"""Values to keep, by column"""
NAME = "split"
ORDER = ("train", "val", "test")
FIX = "write train, validation or test, or rename the column"


def by_split(
    tables: Mapping[str, Table], folders: Mapping[str, Path], only: Only | None
) -> tuple[dict[str, Table], dict[str, Path]]:
    """(the table of each split, its folder), with the rows of a single table divided by its column `split`.

    A column without a name of a split means something else, which a note says. So does one that `only` chooses by.

    Raises:
        UserError: A row names no split, or another one than the table that holds it, or no row is for training.
    """
    whole, places = dict(tables), dict(folders)
    if NAME in (only or {}):
        return whole, places
    for split, table in tables.items():
        values = table.columns.get(NAME, [])
        kinds = [None if missing(value) else split_of(str(value)) for value in values]
        if not any(kinds):
            if any(not missing(value) for value in values):
                table.notes.append(f"{table.where}: column '{NAME}' is not used, because its values name no splits")
            continue
        for row, kind in enumerate(kinds):
            if kind is None and not (table.bad or {}).get(row):
                table.refuse(row, unknown(table, row, values[row]))
        if len(tables) > 1:
            check_own(split, table, kinds)
            continue
        if "train" not in kinds:
            raise UserError("data", f"{table.where}: column '{NAME}' has no row with train", FIX)
        parts = {kind: [row for row, one in enumerate(kinds) if (one or "train") == kind] for kind in ORDER}
        rest = replace(table, columns={name: values for name, values in table.columns.items() if name != NAME})
        whole = {kind: chosen(rest, rows) for kind, rows in parts.items() if rows}
        places = dict.fromkeys(whole, folders[split])
        sizes = ", ".join(f"{len(part):,} {kind}" for kind, part in whole.items())
        whole["train"].notes = [
            *table.notes,
            f"{table.where}: its column '{NAME}' divides {plural(len(table), 'row')}: {sizes}",
        ]
    return whole, places


def divided(tables: Mapping[str, Table], *columns: str | None) -> dict[str, Table]:
    """The table of each split, with the rows of a single table divided by its column `split`, unless that is one of the
    columns that have another use. See `by_split` for errors.
    """
    if NAME in columns:
        return dict(tables)
    return by_split(tables, dict.fromkeys(tables, Path()), None)[0]


def parts_of(table: Table) -> dict[str, Table]:
    """The parts of a table that its column `split` divides, without this column; the table itself as `train` if none does.
    See `by_split` for errors.
    """
    found = divided({"train": table})
    if len(found) == 1 and len(found["train"]) == len(table) and not named(table):
        return found
    kept = [name for name in table.columns if name != NAME]
    return {of: replace(part, columns={n: part.columns[n] for n in kept}) for of, part in found.items()}


def named(table: Table) -> bool:
    """Whether the column `split` names splits."""
    return any(not missing(value) and split_of(str(value)) for value in table.columns.get(NAME, []))


def unknown(table: Table, row: int, value: Any) -> UserError:
    """The error of a row whose split is not known."""
    what = "has no value" if missing(value) else f"has {value!r:.40}, which names no split"
    return UserError("data", f"{table.name(row)}: column '{NAME}' {what}", FIX)


def check_own(split: str, table: Table, kinds: list[str | None]) -> None:
    """Raises UserError if a table of one split has rows of another."""
    row = next((row for row, kind in enumerate(kinds) if kind not in (None, split)), None)
    if row is not None:
        problem = f"{table.name(row)}: column '{NAME}' says {table.columns[NAME][row]}, and the row is read for {split}"
        raise UserError("data", problem, f"give one table alone, or rename the column {NAME}")


def chosen(table: Table, rows: Sequence[int]) -> Table:
    """Some rows of a table."""
    return replace(
        table,
        columns={name: [values[row] for row in rows] for name, values in table.columns.items()},
        lines=None if table.lines is None else [table.lines[row] for row in rows],
        bad=None if table.bad is None else {at: table.bad[row] for at, row in enumerate(rows) if row in table.bad},
    )
