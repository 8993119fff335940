"""Reads questions with choices from a table: choices as columns or as a list, and the right one by place, letter or text."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.text.cells import missing, shown, whole
from sft_lightning.data.text.files import REMEDY, Table, check_text
from sft_lightning.data.text.labels import said
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.written import written

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NUMBERS = "a choice that is a number is read as a text"


@dataclass
class Choices:
    """The choices of one question; none in a row that is left out."""

    texts: list[str] = field(default_factory=list)
    keys: list[str] | None = None
    """The choices' own names, as A to E on the hub (`{"text": [...], "label": [...]}`); None without any"""


# ---- the choices ----


def read_choices(table: Table, columns: Sequence[str] | None, column: str, notes: Notes) -> list[Choices]:
    """The choices of each row. Raises UserError, or leaves the row out, for fewer than two, empty ones, or two that are equal.

    Args:
        table: The rows.
        columns: Columns with one choice each; the last ones may be empty in rows with fewer choices. None for a list.
        column: Column with lists of choices.
        notes: Counts what was converted.
    """
    if columns is None:
        cells = table.column(column, "data.choices_column or data.choice_columns")
    else:
        parts = [table.column(name, "data.choice_columns") for name in columns]
        cells = [list(row) for row in zip(*parts, strict=True)]
    found = []
    for row, cell in enumerate(cells):
        choices = Choices()
        if row not in (table.bad or {}):
            try:
                choices = choices_of(cell, columns, column)
                choices.texts = [as_text(text, notes, table.name(row)) for text in choices.texts]
                check_choices(choices.texts)
            except UserError as error:
                choices = Choices()
                table.refuse(row, UserError("data", f"{table.name(row)}: {error.problem}", error.fix))
        found.append(choices)
    return found


def choices_of(cell: Any, columns: Sequence[str] | None, column: str) -> Choices:
    """The choices of one row as they are written. Raises UserError, without the row's name."""
    if columns is not None:
        there = [not missing(text) for text in cell]
        count = sum(there)
        if not all(there[:count]):
            empty = columns[there.index(False)]
            raise UserError("data", f"the choice in column '{empty}' is missing", REMEDY)
        return Choices(cell[:count])
    if missing(cell):
        raise UserError("data", f"the choices are missing (column '{column}' is {said(cell)})", REMEDY)
    if isinstance(cell, str):
        with suppress(ValueError):  # refused below
            cell = written(cell)
    if isinstance(cell, dict) and isinstance(cell.get("text"), list):
        keys = cell.get("label")
        if keys is not None and (not isinstance(keys, list) or len(keys) != len(cell["text"])):
            raise UserError("data", f"column '{column}' has other numbers of texts and labels", "mend the row")
        return Choices(list(cell["text"]), None if keys is None else [str(key) for key in keys])
    if not isinstance(cell, list | tuple):
        raise UserError(
            "data", f"column '{column}' is {shown(cell)}, not a list of choices", "write a list, as JSON does"
        )
    return Choices(list(cell))


def as_text(value: Any, notes: Notes, where: str) -> str:
    """A choice as a text; numbers are written out."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        notes.add(NUMBERS, where)
        return str(value)
    try:
        check_text(value, "a choice", "", "data.choice_columns")
    except UserError as error:
        raise UserError("data", error.problem.lstrip(": "), error.fix) from None
    text: str = value
    return text


def check_choices(texts: Sequence[str]) -> None:
    """Raises UserError for fewer than two choices, or for two that are equal."""
    if len(texts) < 2:
        found = f"1 choice ({shown(texts[0])})" if texts else "no choices"
        raise UserError("data", f"{found}, but a question needs at least 2", REMEDY.replace("fill it", "add some"))
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise UserError("data", f"the choice {shown(twice)} occurs twice", "write each choice once")


# ---- the right one ----


def by_index(value: Any, choices: Choices) -> int | None:
    """A place, from 0."""
    digits = whole(value)
    return int(digits) if digits is not None and 0 <= int(digits) < len(choices.texts) else None


def by_letter(value: Any, choices: Choices) -> int | None:
    """A letter from A, also written `(a)` or `a.`; or the choice's own name, if it has one."""
    if not isinstance(value, str) and choices.keys is None:
        return None
    text = str(value).strip()
    if choices.keys is not None:
        return choices.keys.index(text) if text in choices.keys else None
    letter = text.strip("().").upper()
    place = LETTERS.find(letter) if len(letter) == 1 else -1
    return place if 0 <= place < len(choices.texts) else None


def by_text(value: Any, choices: Choices) -> int | None:
    """The choice itself."""
    text = value if isinstance(value, str) else str(value)
    return choices.texts.index(text) if text in choices.texts else None


READERS: dict[str, Callable[[Any, Choices], int | None]] = {"index": by_index, "letter": by_letter, "text": by_text}
MEANS = {"index": "places of choices, from 0", "letter": "letters of choices, from A", "text": "texts of choices"}


def find_reader(table: Table, column: str, choices: Sequence[Choices]) -> str:
    """How the labels of a column name choices: 'index', 'letter' or 'text', whichever fits most rows.

    Raises UserError if two ways fit all rows, and differ.
    """
    values = table.column(column, "data.label_column")
    rows = [r for r, c in enumerate(choices) if c.texts and not missing(values[r])]
    read = {name: [reader(values[r], choices[r]) for r in rows] for name, reader in READERS.items()}
    if all(choices[r].keys is not None for r in rows) and rows and None not in read["letter"]:
        return "letter"  # the file itself names the choices
    fits = [name for name, found in read.items() if None not in found]
    if len(fits) > 1 and any(len({read[name][i] for name in fits}) > 1 for i in range(len(rows))):
        ways = " or ".join(MEANS[name] for name in fits)
        problem = f"{table.where}: the labels in column '{column}' could be {ways}"
        raise UserError("data", problem, f"set data.label_is to {' or '.join(fits)}")
    return max(read, key=lambda name: sum(place is not None for place in read[name]))


def right_ones(table: Table, column: str, choices: Sequence[Choices], how: str) -> np.ndarray:
    """The place of each row's right choice, int64 `[rows]`; -1 in rows left out.

    Raises UserError, or leaves the row out, for a label that is missing or names no choice.
    """
    found = np.full(len(table), -1, dtype=np.int64)
    for row, value in enumerate(table.column(column, "data.label_column")):
        if row in (table.bad or {}):
            continue
        if missing(value):
            problem = f"{table.name(row)}: no label (column '{column}' is {said(value)})"
            table.refuse(row, UserError("data", problem, REMEDY))
        elif (place := READERS[how](value, choices[row])) is None:
            table.refuse(row, outside(table.name(row), value, choices[row], how))
        else:
            found[row] = place
    return found


def outside(where: str, value: Any, choices: Choices, how: str) -> UserError:
    """The error of a label that names no choice."""
    count = len(choices.texts)
    if how == "text":
        among = f"is not one of the {count} choices{nearest(str(value), choices.texts)}"
    else:
        among = f"names none of the {count} choices (labels are read as {MEANS[how]})"
    fix = "correct it, or set data.label_is"
    if how == "index" and whole(value) == str(count):
        fix = f"count from 0, so that the last of {count} choices is {count - 1}"
    return UserError("data", f"{where}: label {shown(value)} {among}", fix)
