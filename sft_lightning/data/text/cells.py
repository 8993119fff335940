"""Decides whether a table's cell is missing, a number or a name: one rule for `fit`, folds and the front door.

A number is written as pandas, numpy, JSON and spreadsheets write one: `7`, `-1.50`, `.5`, `1e-05`. Other spellings that
Python's `float` accepts are names (`1_1`, `nan`, `inf`, digits of other scripts), and so are true, false and texts that
begin with zeros (`007`). `NA`, `None`, `null` and `no` are names too: a cell is missing only if it is blank, null or NaN.
"""

import math
import re
from collections.abc import Iterable
from decimal import Decimal
from numbers import Real
from typing import Any

NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE](?P<sign>[+-]?)[0-9]+)?")
WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.0*)?")
MOST_DIGITS = 1000
"""A longer text, such as a sequence of 0 and 1, is a name; Python converts at most 4,300 digits"""


def missing(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN, or a text without a visible character."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float | Decimal) and value != value)


def number(value: Any) -> float | None:
    """The finite number that a cell holds; None for anything else, true and false included."""
    if isinstance(value, str):
        value = value.strip()
        if not NUMBER.fullmatch(value):
            return None
    elif isinstance(value, bool) or not isinstance(value, Real | Decimal):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def whole(value: Any) -> str | None:
    """The digits of a whole number, the same for 1, 1.0, `1` and `1.0`; None for anything else."""
    if isinstance(value, str):
        value = value.strip()
        return str(int(value.partition(".")[0])) if len(value) < MOST_DIGITS and WHOLE.fullmatch(value) else None
    found = number(value)
    return str(int(value)) if found is not None and found == int(found) else None


def numbers(values: Iterable[Any]) -> list[float] | None:
    """The values as numbers; None if one of them is a name or missing, or if there are no values.

    Spellings such as `1e3`, which no library writes, are codes unless a value of the column has a decimal point.
    """
    found: list[float] = []
    codes = points = False
    for value in values:
        if (one := number(value)) is None:
            return None
        found.append(one)
        if isinstance(value, str):
            written = NUMBER.fullmatch(value.strip())
            codes = codes or (written is not None and written["sign"] == "")
            points = points or "." in value
        else:
            points = True
    return found if found and (points or not codes) else None


def shown(value: Any) -> str:
    """A value for a message: at most 40 characters on one line."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
