"""Reads lists of words or tags from the cells of delimited files, which hold texts alone.

A cell may be written as JSON (`["EU", "rejects"]`), as Python's list (`['EU', 'rejects']`, which pandas writes), as numpy's
array (`['EU' 'rejects']`, which datasets writes), or as words with blanks between them (`EU rejects`).
"""

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

from sft_lightning.data.text.cells import missing

WRITTEN, SPLIT = "lists written as texts", "texts that are split at blanks"
"""How the cells of a column hold lists"""
BLANKS = re.compile(r"[ \t\r\n]+")
ITEM = re.compile(
    r"""[ \t\r\n]*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[-+]?\d+(?:\.\d*)?)(?:[ \t\r\n]*,|[ \t\r\n]|$)""", re.DOTALL
)
"""A text or a number, and what ends it"""


def list_of(cell: str) -> list[Any] | None:
    """The list that a cell writes; None if it is another text, or a list that numpy shortened with an ellipsis."""
    text = cell.strip()
    if text[:2] == '"[' and text[-2:] == ']"':  # quoted in a .tsv, whose reader takes quotation marks for texts
        text = text[1:-1].replace('""', '"')
    if len(text) < 2 or (text[0], text[-1]) != ("[", "]"):
        return None
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return items_of(text[1:-1].rstrip())
    return read if isinstance(read, list) else None


def items_of(inner: str) -> list[Any] | None:
    """The items of a list as Python or numpy writes it, without its brackets; None if they are not texts and numbers."""
    found, at = [], 0
    while at < len(inner):
        item = ITEM.match(inner, at)
        if item is None:
            return None
        try:
            found.append(ast.literal_eval(item[1]))
        except (ValueError, SyntaxError):
            return None
        at = item.end()
    return found


def as_lists(values: Sequence[Any]) -> tuple[list[Any], str]:
    """(the cells of a column as lists, how they were written). A column of which most cells are lists holds lists: its other
    cells stay texts, which its reader refuses. Cells of another column are split at blanks. Missing cells stay.
    """
    read = [list_of(value) if isinstance(value, str) else None for value in values]
    if 2 * sum(one is not None for one in read) > sum(not missing(value) for value in values):
        return [
            value if one is None else one for value, one in zip(values, read, strict=True)
        ], "lists written as texts"
    split = [BLANKS.split(v.strip(" \t\r\n")) if isinstance(v, str) and not missing(v) else v for v in values]
    return split, SPLIT
