"""Finds the class of a label, by name or by number: one rule for every reader of tables.

A label that names a class is that class. Whole numbers are compared as numbers (1, 1.0 and `1.0` are one class), names in
Unicode's composed form. A number means the place of a class only if the file or `data.labels` gives the classes in order
and all of them look like names: otherwise labels could be shifted without notice.
"""

import ast
import re
from collections.abc import Sequence
from typing import Any
from unicodedata import normalize

import numpy as np

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.text.cells import missing, number, shown, whole
from sft_lightning.data.text.files import KINDS, REMEDY, Table
from sft_lightning.data.text.written import is_unquoted

UNLABELLED = "-1"
"""Marks a row without a label if classes are counted from 0, as on the hub"""
BOOLEANS = {"true": "1", "false": "0"}
LISTED = re.compile(r"\s*[\[{(].*[\]})]\s*", re.DOTALL)


class Classes:
    """Finds the class of a label.

    Args:
        names: The classes' names, in order.
        numbered: Whether the names were given in order, so that a number may mean a place.
    """

    def __init__(self, names: Sequence[str], numbered: bool = True) -> None:
        self.names = list(names)
        self._exact = {name: i for i, name in enumerate(names)}
        self._whole = unique((digits, i) for i, name in enumerate(names) if (digits := whole(name)) is not None)
        self._composed = unique((normalize("NFC", name), i) for i, name in enumerate(names))
        lower = [name.lower() for name in names]
        self._booleans = unique((BOOLEANS[n], i) for i, n in enumerate(lower)) if set(lower) <= set(BOOLEANS) else {}
        self._values = unique((number(name), i) for i, name in enumerate(names))
        if None in self._values or any(number(name) is None for name in names):
            self._values = {}
        self._places = numbered and not any(re.fullmatch(r"\s*[+-]?[\d._]+\s*", name) for name in names)

    def find(self, value: Any) -> int | None:
        """The number of a label's class; None if no class fits."""
        text = value if isinstance(value, str) else str(value)
        digits = whole(value)
        if (found := self._exact.get(text)) is not None:
            return found
        as_bool = str(int(value)) if isinstance(value, bool) else BOOLEANS.get(text.lower(), digits)
        if self._booleans:
            return self._booleans.get(as_bool)
        if isinstance(value, bool) or digits is None:
            if isinstance(value, bool) and set(self._whole) == {"0", "1"}:
                return self._whole[str(as_bool)]
            value_of = number(value)
            by_value = None if value_of is None else self._values.get(value_of)
            return by_value if by_value is not None else self._composed.get(normalize("NFC", text))
        if digits in self._whole:
            return self._whole[digits]
        return int(digits) if self._places and 0 <= int(digits) < len(self.names) else None


def unique(pairs: Any) -> dict[Any, int]:
    """The pairs whose key occurs once."""
    found: dict[Any, int] = {}
    twice = set()
    for key, value in pairs:
        if key in found:
            twice.add(key)
        found[key] = value
    return {key: value for key, value in found.items() if key not in twice}


# ---- the classes of a column ----


def class_names(table: Table, column: str, given: Sequence[str] | None) -> list[str]:
    """Classes in order: those given, else those that the file names, else the column's own values, sorted, numbers first."""
    if given is not None:
        return [str(name) for name in given]
    if column in table.names:
        return table.names[column]
    found: dict[str, set[str]] = {}
    for row, value in enumerate(table.column(column, "data.label_column")):
        if row not in (table.bad or {}) and not missing(value) and wrong(value) is None:
            text = value if isinstance(value, str) else str(value)
            found.setdefault(whole(value) or text, set()).add(text)
    check_kinds(table, column)
    if marks_unlabelled(found):
        del found[UNLABELLED]
    numeric = all(number(name) is not None for name in found)
    names = [key if numeric or len(texts) > 1 else next(iter(texts)) for key, texts in found.items()]
    return sorted(names, key=label_order)


def label_order(name: str) -> tuple[bool, float, str]:
    """Sorts numbers by value, before names."""
    if re.fullmatch(r"-?[0-9]+", name) and len(name) < 300:
        return False, int(name), name
    value = number(name)
    return value is None, value or 0, name


def marks_unlabelled(keys: Any) -> bool:
    """Whether -1 among the values means a missing label: it does beside 0, 1, 2 and so on; in -1, 0, 1 it is a class."""
    others = {int(key) for key in keys if whole(key) == key and key != UNLABELLED}
    return UNLABELLED in keys and len(others) == len(keys) - 1 > 2 and others == set(range(len(others)))


def check_kinds(table: Table, column: str) -> None:
    """Raises UserError if a column mixes true or false with numbers: they could be the same classes, or others."""
    firsts: dict[str, tuple[int, Any]] = {}
    for row, value in enumerate(table.columns[column]):
        kind = "bool" if isinstance(value, bool) else "number" if number(value) is not None else "other"
        firsts.setdefault(kind, (row, value))
    if "bool" in firsts and "number" in firsts:
        (row, value), (other, number_there) = firsts["bool"], firsts["number"]
        raise UserError(
            "data",
            f"{table.name(row)}: column '{column}' has the label {value!r}, and {number_there!r} in "
            f"{table.name(other)}",
            "write all labels in one way",
        )


# ---- the classes of rows ----


def class_numbers(table: Table, column: str, classes: Sequence[str], numbered: bool = True) -> np.ndarray:
    """Class number of each row, int64 `[rows]`; -1 in rows left out. Raises UserError for a label that fits no class.

    Args:
        table: The rows.
        column: The labels.
        classes: Names in order.
        numbered: Whether the names were given in order, so that a number may mean a place.
    """
    known, own = Classes(classes, numbered), table.names.get(column)
    found = np.full(len(table), -1, dtype=np.int64)
    cache: dict[tuple[type, Any], int] = {}
    for row, value in enumerate(table.column(column, "data.label_column")):
        try:
            key = (type(value), value)
            number_of = cache.get(key)
        except TypeError:  # a list cannot be a key
            key, number_of = None, None
        if number_of is None:
            try:
                number_of = class_of(value, known, own, column)
            except UserError as error:
                table.refuse(row, UserError("data", f"{table.name(row)}: {error.problem}", error.fix))
                continue
            if key is not None:
                cache[key] = number_of
        found[row] = number_of
    return found


def class_of(value: Any, known: Classes, own: Sequence[str] | None, column: str) -> int:
    """The number of a label's class. Raises UserError, without the row's name, if no class fits."""
    if missing(value):
        raise UserError("label", f"no label (column '{column}' is {said(value)})", REMEDY)
    if (why := wrong(value)) is not None:
        raise why
    digits = whole(value)
    if own is not None and digits is not None and 0 <= int(digits) < len(own) and not isinstance(value, str):
        value = own[int(digits)]
    found = known.find(value)
    if found is not None:
        return found
    if digits == UNLABELLED:
        raise UserError("label", f"no label (-1 in column '{column}' marks that)", REMEDY)
    text, some = str(value), ", ".join(known.names[:12]) + (", …" if len(known.names) > 12 else "")
    fix = "set data.labels to all of them"
    if digits is not None and not known._places:
        fix += ", in the order of their numbers"
    among = f"{plural(len(known.names), 'class', 'es')} {some}{nearest(text, known.names)}"
    problem = f"label {shown(value)} is not among the {among}"
    raise UserError("label", problem, fix)


def wrong(value: Any) -> UserError | None:
    """The error of a value that cannot be a label at all; None if it can."""
    if isinstance(value, list | tuple | dict | set) or (isinstance(value, str) and is_list(value)):
        kind = KINDS.get(type(value).__name__, "a list") if not isinstance(value, str) else "a list, written as text"
        problem = f"label is {kind} ({shown(value)}), and a sample has one label here"
        fix = "use MultiLabelTable for texts with sets of labels, or name another column by data.label_column"
        return UserError("label", problem, fix)
    if isinstance(value, bytes):
        return UserError("label", f"label is bytes ({shown(value)}), not a text or number", "convert it")
    if isinstance(value, float) and number(value) is None:
        return UserError("label", f"label is {value}, not a finite number", "fill it or remove the row")
    if isinstance(value, str) and not writable(value):
        return UserError("label", f"label {value!r} has half a character", "write it whole")
    return None


def is_list(text: str) -> bool:
    """Whether a text is a list or an object as Python, numpy or JSON write them, or `[a, b]`; `[deleted]` is a name."""
    if not LISTED.fullmatch(text):
        return False
    if re.fullmatch(r"\s*\[[\s\d.+-]*\]\s*", text) or is_unquoted(text):  # numpy's, without commas
        return True
    try:
        return isinstance(ast.literal_eval(text.strip()), list | tuple | dict | set)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def writable(text: str) -> bool:
    """Whether all characters of a text are whole; JSON's escapes may write half of one."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def said(value: Any) -> str:
    """The name of a missing value."""
    return "null" if value is None else "empty" if isinstance(value, str) else "NaN"


def unlabelled(table: Table, column: str) -> list[bool]:
    """For each row, whether `class_names` and `class_numbers` take its label for missing."""
    values = table.columns[column]
    keys = {whole(v) for v in values if not missing(v) and not isinstance(v, list | dict)}
    marked = column in table.names or marks_unlabelled({k or "" for k in keys})
    return [missing(v) or (marked and whole(v) == UNLABELLED) for v in values]


def all_unlabelled(table: Table, column: str) -> bool:
    """Whether all labels of a table are missing: its column is absent, empty, or -1 throughout, as in hidden test sets."""
    values = table.columns.get(column, [])
    return all(missing(v) or whole(v) == UNLABELLED for v in values)
