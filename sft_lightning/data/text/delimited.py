"""Reads CSV and TSV files: detects how fields are separated and quoted, and notes it if the suffix suggests otherwise.

`.csv` follows RFC 4180: a field may be in quotation marks, and a mark within it is doubled. In `.tsv` files, as GLUE and
most competitions write them, a quotation mark is an ordinary character, unless lines then have too few fields.
"""

import csv
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.text.utf8 import NO_TEXT, open_text

NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
FIELDS = " where the "
"""Written where a row has another number of fields than the first one"""


@dataclass
class Rows:
    """The content of a file. A row that cannot be used holds only None."""

    header: list[str] = field(default_factory=list)
    cells: list[list[Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    """Line where each row begins"""
    notes: list[str] = field(default_factory=list)
    malformed: dict[int, str] = field(default_factory=dict)
    """Rows that do not fit the header, and why"""
    ends: bool = False
    """Whether the last malformed row includes the rest of the file"""


def read_rows(path: Path, strict: bool, header: bool = True) -> Rows:
    """Reads the rows of a file. With `strict`, raises UserError for the first malformed row; else `malformed` lists them.
    Without a `header`, the columns are named 1, 2 and so on.
    """
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    delimiter, skip = separator(path, usual, strict)
    separated = [] if delimiter == usual else [f"{path} is separated by {NAMES[delimiter]}, not by {NAMES[usual]}"]
    whole = delimiter == "\t"
    rows = read_tabs(path, strict, skip, header) if whole else read(path, delimiter, True, strict, skip, header)
    if rows.ends or (strict and rows.malformed):
        row, why = next(reversed(rows.malformed.items())) if rows.ends else next(iter(rows.malformed.items()))
        told = f" (it is separated by {NAMES[delimiter]})" if separated else ""
        raise UserError("data", f"{path} line {rows.lines[row]} is malformed: {why}{told}", "mend or remove it")
    rows.notes = [*separated, *rows.notes]
    twice = [name for name, count in Counter(n for n in rows.header if n.strip()).items() if count > 1]
    if twice:
        raise UserError(
            "data", f"{path} has {rows.header.count(twice[0])} columns '{twice[0]}'", "rename or remove one"
        )
    return rows


def separator(path: Path, usual: str, strict: bool) -> tuple[str, int]:
    """Detects (the delimiter, the number of lines to skip). Another delimiter than the usual one must be in the header, and
    either the usual one is not, or only the other gives the first rows as many fields as the header.
    """
    with open_text(path, strict) as file:
        lines = list(islice((line for line in file if line.strip()), 50))
    first = lines[0].strip("\r\n") if lines else ""
    if first.lower().startswith("sep=") and first[4:] in NAMES:  # Excel's first line
        return first[4:], 1
    heads = {d: first_rows(lines, d) for d in NAMES if d in first}
    wide = [d for d, rows in heads.items() if rows and any(n.strip() for n in rows[0][1:])]  # an index has no name
    even = [d for d in wide if len(heads[d]) > 1 and len({len(row) for row in heads[d]}) == 1]
    if usual in even or (usual in wide and not even):
        return usual, 0
    return max(even or wide, key=lambda d: len(heads[d][0]), default=usual), 0


def first_rows(lines: list[str], delimiter: str) -> list[list[str]]:
    """Splits the header and at most ten rows by a delimiter; an empty row at the end if their quotation marks do not fit."""
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    found: list[list[str]] = []
    try:
        for row in islice(csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True), 11):
            found.append(row)
    except csv.Error as error:
        if "unexpected end" not in str(error):  # the lines below may close the quotation
            found.append([])
    return found


def read_tabs(path: Path, strict: bool, skip: int, header: bool) -> Rows:
    """Reads a file separated by tabs: without quoting, or quoted if only that gives every row all its fields."""
    plain = read(path, "\t", False, strict, skip, header)
    if any(FIELDS in why for why in plain.malformed.values()):
        quoted = read(path, "\t", True, strict, skip, header)
        fits = not any("UTF-8" not in why for why in quoted.malformed.values())
        if fits and not any(isinstance(c, str) and "\n" in c and "\t" in c for row in quoted.cells for c in row):
            row, why = next(iter(plain.malformed.items()))
            quoted.notes.append(
                f"{path} is quoted: otherwise line {plain.lines[row]} has {why}; quotation marks around texts are left out"
            )
            return quoted
    if doubled := sum(is_quoted(cell) for row in plain.cells for cell in row):
        plain.notes.append(
            f"{path}: {plural(doubled, 'text')} in quotation marks with doubled ones inside; a .tsv file keeps them as they "
            "are: if they are quoting, save it as .csv"
        )
    return plain


def is_quoted(cell: Any) -> bool:
    """Whether a field looks quoted: in marks, with marks inside, all doubled."""
    if not isinstance(cell, str) or len(cell) < 4 or cell[0] != '"' or cell[-1] != '"':
        return False
    return '""' in cell[1:-1] and '"' not in cell[1:-1].replace('""', "")


def read(path: Path, delimiter: str, quoted: bool, strict: bool, skip: int, header: bool) -> Rows:
    """Reads all rows in one dialect, and separates malformed ones; `strict` refuses bytes that are not UTF-8."""
    csv.field_size_limit(2**31 - 1)
    found, start = Rows(), 1 + skip
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    with open_text(path, strict) as file:
        reader = csv.reader(islice(file, skip, None), delimiter=delimiter, quoting=quoting, strict=True)
        while True:
            row: list[Any] | None
            try:
                row, why = next(reader, None), ""
            except csv.Error as error:
                row, why = [""], explained(str(error))
                found.ends = "unexpected end" in why or not found.header  # of the rest of the file nothing is known
            if row is None:
                return found
            first = not found.header and not why
            if first:
                found.header = row if header else [str(place + 1) for place in range(len(row))]
            if row and not (first and header):
                if not why and len(row) != len(found.header):
                    of = "header" if header else "first row"
                    why = f"{plural(len(row), 'field')}{FIELDS}{of} has {len(found.header)}"
                if not why and not strict and NO_TEXT.search("".join(row)):
                    why = "not UTF-8"
                if why:
                    found.malformed[len(found.cells)] = why
                found.cells.append([None] * len(found.header) if why else row)
                found.lines.append(start)
                if found.ends:
                    return found
            start = reader.line_num + 1 + skip


def explained(error: str) -> str:
    """Explains an error message of the csv module."""
    if "unexpected end" in error:
        return "unexpected end of data: a quotation mark that begins a field of this row is never closed"
    if "expected after" in error:
        return f"{error}: a field goes on after its closing quotation mark; double the marks inside a text"
    return error
