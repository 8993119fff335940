"""Reads sets of labels from a table: a column of lists, of names with a separator between, or columns of 0 and 1.

A list is JSON's, or a list that is written as text (`["a", "b"]`, `['a', 'b']`, numpy's `['a' 'b']`). In a column of names
with a separator, an empty cell is the empty set. In a column of lists `[]` is, and null or an empty cell is a missing value.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import listed
from sft_lightning.data.text.cells import missing, number, shown, whole
from sft_lightning.data.text.files import REMEDY, Table
from sft_lightning.data.text.labels import BOOLEANS, Classes, class_of, is_list, label_order, said
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.written import written

SEPARATORS = (";", "|", ",", "\t")
"""Separators that are found; others must be given"""
BRACKETS = re.compile(r"\[[^\[\]]*\]")
Labels = list[Any]
INDICATORS = "a 0 or 1 for each label instead of the names of those that apply"
NAMES = "write the names, or a column of 0 and 1 for each label (data.label_columns)"
EMPTY_PIECE = "nothing between two separators is left out"
EMPTY_CELL = "an empty cell is read as no labels"


def find_separator(table: Table, column: str) -> str | None:
    """The separator of a column of names; None if its cells are lists, or if there is none.

    Raises UserError if several could be meant.
    """
    cells = [v for v in table.columns[column] if isinstance(v, str) and v.strip()]
    if any(not isinstance(v, str) and not missing(v) for v in table.columns[column]) or any(map(is_list, cells)):
        return None
    found = [s for s in SEPARATORS if any(s in cell for cell in cells)]
    if len(found) > 1:
        seen = listed([repr(s) for s in found])
        where = f"{table.where}: column '{column}' has {seen}, and each could separate labels"
        raise UserError("data", where, f"set data.label_separator to one of them, for instance '{found[0]}'")
    return found[0] if found else None


def read_sets(table: Table, column: str, separator: str | None, notes: Notes) -> list[Labels | None]:
    """The labels of each row as they are written; None in rows left out. Raises UserError, or leaves the row out, for a
    missing value and for a label that occurs twice.

    Args:
        table: The rows.
        column: The labels.
        separator: The character between names; None if cells are lists or single names.
        notes: Counts what was left out or converted.
    """
    values = table.column(column, "data.label_column")
    lists = separator is None and any(isinstance(v, list) or (isinstance(v, str) and is_list(v)) for v in values)
    found: list[Labels | None] = []
    for row, value in enumerate(values):
        if row in (table.bad or {}):
            found.append(None)
            continue
        try:
            labels = set_of(value, column, separator, lists, notes, table.name(row))
            check_once(labels)
        except UserError as error:
            table.refuse(row, UserError("data", f"{table.name(row)}: {error.problem}", error.fix))
            labels = None
        found.append(labels)
    return found


def set_of(value: Any, column: str, separator: str | None, lists: bool, notes: Notes, where: str) -> Labels:
    """The labels of one cell. Raises UserError, without the row's name, if it is not a set of labels."""
    if isinstance(value, str) and missing(value) and not lists:
        notes.add(EMPTY_CELL, where)
        return []
    if missing(value):
        fix = "write [] for a sample without labels, or remove the row, or set data.on_bad_sample skip"
        raise UserError("label", f"no labels (column '{column}' is {said(value)})", fix)
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str) and separator is not None:
        if separator in value and (is_list(value) or BRACKETS.fullmatch(value.strip())):
            problem = f"column '{column}' has {shown(value)}, a list, but '{separator}' separates labels"
            raise UserError(
                "label", problem, "leave out the brackets, or write it as JSON without data.label_separator"
            )
        pieces = [piece.strip() for piece in value.split(separator)]
        if not all(pieces):
            notes.add(EMPTY_PIECE, where)
        return [piece for piece in pieces if piece]
    if isinstance(value, str) and (is_list(value) or (lists and BRACKETS.fullmatch(value.strip()))):
        return list_of(value, column)
    if isinstance(value, dict | set | bytes):
        raise UserError("label", f"labels are {shown(value)}, not a list", "write a list of names")
    return [value]


def list_of(text: str, column: str) -> Labels:
    """The list that a text writes, as JSON, Python or numpy do."""
    try:
        value = written(text)
    except ValueError:
        value = None
    if isinstance(value, list | tuple):
        return list(value)
    fix = "write it as JSON, with quotes around names and commas between"
    raise UserError("label", f"column '{column}' has {shown(text)}, which is not a list of labels", fix)


def check_once(labels: Labels) -> None:
    """Raises UserError if a label occurs twice, or is empty."""
    seen = set[str]()
    for label in labels:
        if missing(label):
            raise UserError("label", f"a label is {said(label)}", "name it, or remove it")
        key = whole(label) or str(label)
        if key in seen and all(indicator(one) is not None for one in labels):
            raise UserError("label", f"labels are {shown(labels)}, {INDICATORS}", NAMES)
        if key in seen:
            raise UserError("label", f"the label {shown(label)} occurs twice", "write it once")
        seen.add(key)


def label_names(sets: Sequence[Labels | None]) -> list[str]:
    """All labels that occur, sorted, numbers first."""
    names = {
        whole(label) or str(label) for labels in sets for label in labels or () if not isinstance(label, list | dict)
    }
    return sorted(names, key=label_order)


def set_targets(
    table: Table, sets: Sequence[Labels | None], names: Sequence[str], given: bool, own: Sequence[str] | None = None
) -> np.ndarray:
    """Whether each label applies to each row: uint8 `[rows, C]`. Raises UserError, or leaves the row out, for an unknown label.

    Args:
        table: The rows.
        sets: The labels of each row.
        names: All labels, in order.
        given: Whether the names were given in order, so that a number may mean a place.
        own: The names that the table's own numbers stand for; None if its file gives none.
    """
    known, found = Classes(names, given), np.zeros((len(table), len(names)), dtype=np.uint8)
    for row, labels in enumerate(sets):
        try:
            numbers = [class_of(label, known, own, "labels") for label in labels or ()]
            if len(set(numbers)) < len(numbers):
                raise UserError("label", f"two of the labels {shown(labels)} are one", "write each label once")
        except UserError as error:
            problem = error.problem.replace(f"the {len(names)} classes", f"the {len(names)} labels")
            table.refuse(row, UserError("data", f"{table.name(row)}: {problem}", error.fix))
            continue
        found[row, numbers] = 1
    return found


# ---- columns of 0 and 1 ----


def indicator_columns(table: Table, wanted: Sequence[str]) -> list[str]:
    """The columns that `wanted` names; a name that ends in * stands for all columns that begin so, in the file's order."""
    found: list[str] = []
    for name in wanted:
        here = [c for c in table.columns if c.startswith(name[:-1])] if name.endswith("*") else [name]
        if not here:
            raise UserError(
                "data.label_columns",
                f"{table.where} has no column that begins with '{name[:-1]}', only {', '.join(table.columns)}",
                "name the columns of labels",
            )
        found += here
    if twice := next((c for c in found if found.count(c) > 1), None):
        raise UserError("data.label_columns", f"names column '{twice}' twice", "name each column once")
    return found


def indicators(table: Table, columns: Sequence[str]) -> np.ndarray:
    """The columns of 0 and 1 as uint8 `[rows, C]`. Raises UserError, or leaves the row out, for other values."""
    found = np.zeros((len(table), len(columns)), dtype=np.uint8)
    for at, column in enumerate(columns):
        for row, value in enumerate(table.column(column, "data.label_columns")):
            if row in (table.bad or {}):
                continue
            if missing(value):
                problem = f"{table.name(row)}: column '{column}' is {said(value)}, not 0 or 1"
                table.refuse(row, UserError("data", problem, REMEDY))
            elif (digit := indicator(value)) is None:
                problem = f"{table.name(row)}: column '{column}' is {shown(value)}, not 0 or 1"
                table.refuse(row, UserError("data", problem, "write 0 or 1, or set data.label_columns"))
            else:
                found[row, at] = digit
    return found


def indicator(value: Any) -> int | None:
    """0 or 1 for a cell that says so (0, 1, 0.0, `1`, true, `False`); None for anything else."""
    if isinstance(value, bool):
        return int(value)
    digit = BOOLEANS.get(value.strip().lower()) if isinstance(value, str) else None
    digit = digit or (whole(value) if number(value) is not None else None)
    return int(digit) if digit in ("0", "1") else None
