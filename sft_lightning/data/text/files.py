"""Tables of texts as they lie on disk or on the hub: CSV, TSV, JSON, JSONL, parquet. Every error names file and row."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from sft_lightning.errors import UserError, nearest

FORMATS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
KINDS = {
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "an object",
    "NoneType": "null",
}
NO_TEXT = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as they are read where bad rows are left out
Bad = dict[int, str] | None
"""Rows that cannot be used, and why; None where the first of them is an error."""


@dataclass
class Table:
    """Rows of named columns. A value that a row lacks is None."""

    where: str
    """File or hub name, for messages"""
    columns: dict[str, list[Any]]
    names: dict[str, list[str]] = field(default_factory=dict)
    """Class names of integer columns, where the file knows them"""
    lines: list[int] | None = None
    """Line number of each row, in files that have lines"""
    bad: Bad = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def name(self, row: int) -> str:
        """`train.csv line 7`, or `train.parquet row 5`."""
        return f"{self.where} line {self.lines[row]}" if self.lines else f"{self.where} row {row}"

    def refuse(self, row: int, error: UserError) -> None:
        """Leaves a row out, or raises."""
        if self.bad is None:
            raise error
        self.bad.setdefault(row, str(error).removeprefix(f"data: {self.name(row)}").lstrip(": "))

    def column(self, name: str, argument: str) -> list[Any]:
        """A column's values; `argument` is the key that names the column."""
        if name not in self.columns:
            raise UserError(
                f"data: {self.where} has no column '{name}'{nearest(name, self.columns)}; it has "
                f"{', '.join(self.columns)}: set {argument}"
            )
        return self.columns[name]

    def texts(self, name: str, argument: str, allow_empty: bool = False) -> list[str]:
        """A column of texts, empty in rows that are left out."""
        values = self.column(name, argument)
        for row, value in enumerate(values):
            try:
                check_text(value, f"column '{name}'", self.name(row), argument, allow_empty)
            except UserError as error:
                self.refuse(row, error)
        if self.bad:
            values = ["" if row in self.bad else value for row, value in enumerate(values)]
        good = values if not self.bad else [value for row, value in enumerate(values) if row not in self.bad]
        if good and all(_is_number(v) for v in good):
            raise UserError(
                f"data: {self.where}: column '{name}' holds numbers, not texts: set {argument} to the texts'"
            )
        return values

    def numbers(self, name: str, argument: str) -> np.ndarray:
        """A column of finite numbers, float32; NaN in rows that are left out."""
        found = np.empty(len(self), dtype=np.float32)
        for row, value in enumerate(self.column(name, argument)):
            try:
                found[row] = float(value)
            except (TypeError, ValueError):
                found[row] = np.nan
            if not np.isfinite(found[row]):
                self.refuse(row, UserError(f"data: {self.name(row)}: {name} is {value!r}, not a finite number"))
        return found


def check_text(value: Any, what: str, row: str, argument: str, allow_empty: bool = False) -> None:
    """Raises UserError unless `value` is a text with something in it."""
    if value is None:
        raise UserError(f"data: {row}: {what} has no value: fill it or remove the row")
    if not isinstance(value, str):
        kind = KINDS.get(type(value).__name__, f"a {type(value).__name__}")
        raise UserError(f"data: {row}: {what} holds {kind} ({value!r:.40}), not a text: set {argument} to the texts'")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"{value[error.start]!r} at character {error.start}"
        raise UserError(
            f"data: {row}: {what} has half of a character ({half}): write it whole, or remove the row"
        ) from None
    if not allow_empty and not value.strip():
        raise UserError(f"data: {row}: {what} is empty: fill it or remove the row")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---- labels ----


def class_names(table: Table, column: str, given: Sequence[str] | None) -> list[str]:
    """Classes in order: those given, those the file names, else the column's own values, sorted."""
    if given is not None:
        return [str(name) for name in given]
    if column in table.names:
        return table.names[column]
    values = table.column(column, "data.label_column")
    found = {str(v) for row, v in enumerate(values) if v is not None and row not in (table.bad or {})}
    found = {name for name in found if writable(name)}
    found -= {""}  # a row without a label, which `class_numbers` refuses
    return sorted(found, key=lambda v: (not v.lstrip("-").isdigit(), int(v) if v.lstrip("-").isdigit() else 0, v))


def writable(text: str) -> bool:
    """Whether a text is of whole characters, as JSON's escapes need not be."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def class_numbers(table: Table, column: str, classes: Sequence[str]) -> np.ndarray:
    """Class of each row: by name, or by number where the names are not numbers themselves; -1 in rows left out."""
    by_name = {name: i for i, name in enumerate(classes)}
    numeric = any(name.lstrip("-").isdigit() for name in classes)
    found = np.full(len(table), -1, dtype=np.int64)
    for row, value in enumerate(table.column(column, "data.label_column")):
        text = str(value)
        if column in table.names and isinstance(value, int) and 0 <= value < len(table.names[column]):
            text = table.names[column][value]
        if not writable(text):
            table.refuse(
                row, UserError(f"data: {table.name(row)}: label {value!r} has half of a character: write it whole")
            )
        elif text in by_name:
            found[row] = by_name[text]
        elif not numeric and text.isdigit() and int(text) < len(classes):
            found[row] = int(text)
        else:
            known = f"{len(classes)} classes {', '.join(classes[:12])}"
            error = UserError(
                f"data: {table.name(row)}: label {value!r} is none of the {known}{nearest(text, classes)}; "
                "set data.labels to all of them"
            )
            table.refuse(row, error)
    return found


# ---- reading ----


def read_table(path: str | Path, where: str = "data", skip: bool = False) -> Table:
    """Reads a file by its suffix; `where` is the key that names it. With `skip`, rows that cannot be used are left out."""
    path = Path(path).expanduser()
    if not path.is_file():
        here = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{where}: {path} does not exist{nearest(path.name, here)}")
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"{where}: {path} is none of {', '.join(FORMATS)}")
    try:
        table = readers[path.suffix.lower()](path, {} if skip else None)
    except UnicodeDecodeError as error:
        raise UserError(f"data: {path} is not UTF-8 at byte {error.start}: convert it") from None
    except OSError as error:
        raise UserError(f"data: {path} cannot be read: {error}") from None
    if not len(table):
        raise UserError(f"data: {path} has no rows")
    return table


def _open(path: Path, bad: Bad) -> TextIO:
    """UTF-8; where bad rows are left out, other bytes are for `NO_TEXT` to find."""
    return path.open(encoding="utf-8-sig", newline="", errors="strict" if bad is None else "surrogateescape")


def _refuse(bad: Bad, row: int, where: str, why: str) -> None:
    if bad is None:
        raise UserError(f"data: {where} is malformed: {why}") from None
    bad[row] = f"malformed: {why}"


def _csv(path: Path, bad: Bad) -> Table:
    csv.field_size_limit(2**31 - 1)
    rows: list[list[Any]] = []
    lines: list[int] = []
    with _open(path, bad) as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        header: list[str] | None = None
        start = 1
        while True:
            row: list[Any] | None
            try:
                row, why = next(reader, None), ""
            except csv.Error as error:
                row, why = [""], str(error)
                if header is None or "unexpected end" in why:  # of the rest of the file nothing is known
                    raise UserError(f"data: {path} line {reader.line_num} is malformed: {why}") from None
                start = start if bad is not None else reader.line_num
            if row is None:
                break
            if header is None:
                header = row
            elif row:
                if not why and len(row) != len(header):
                    why = f"{len(row)} fields where the header has {len(header)}"
                if not why and bad is not None and NO_TEXT.search("".join(row)):
                    why = "not UTF-8"
                if why:
                    _refuse(bad, len(rows), f"{path} line {start}", why)
                rows.append([None] * len(header) if why else row)
                lines.append(start)
            start = reader.line_num + 1
    return Table(str(path), {n: [r[i] for r in rows] for i, n in enumerate(header or [])}, lines=lines, bad=bad)


def _jsonl(path: Path, bad: Bad) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    with _open(path, bad) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row, why = json.loads(line), ""
            except (ValueError, RecursionError) as error:
                row, why = {}, str(error)
            if not isinstance(row, dict):
                row, why = {}, f"{KINDS.get(type(row).__name__, 'a value')}, not an object"
            if bad is not None and NO_TEXT.search(line):
                why = "not UTF-8"
            if why:
                _refuse(bad, len(rows), f"{path} line {number}", why)
            rows.append({} if why else row)
            lines.append(number)
    return _of_rows(str(path), rows, lines, bad)


def _json(path: Path, bad: Bad) -> Table:
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if "Extra data" in str(error):  # one object a line, whatever the suffix says
            return _jsonl(path, bad)
        raise UserError(f"data: {path} is malformed: {error}") from None
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise UserError(
            f"data: {path} is malformed: {KINDS.get(type(rows).__name__, 'a value')}, not a list of objects"
        )
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            _refuse(bad, number, f"{path} row {number}", f"{KINDS.get(type(row).__name__, 'a value')}, not an object")
            rows[number] = {}
    return _of_rows(str(path), rows, None, bad)


def _of_rows(where: str, rows: list[dict[str, Any]], lines: list[int] | None, bad: Bad) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(where, {name: [row.get(name) for row in rows] for name in names}, lines=lines, bad=bad)


def _parquet(path: Path, bad: Bad) -> Table:
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise UserError(f"data: {path} is damaged or no parquet file: {str(error).splitlines()[0]}") from None
    about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    names = {n: list(f["names"]) for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    return Table(str(path), {n: table.column(n).to_pylist() for n in table.column_names}, names, bad=bad)


def split_file(root: str | Path, split: str) -> Path | None:
    """The file of a split in a local copy: `train.jsonl`, or parquet as the hub lays it out, also one folder down."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root: {root} does not exist, or is no folder")
    for suffix in FORMATS:
        if (path := root / f"{split}{suffix}").is_file():
            return path
    patterns = (f"{split}-*.parquet", f"*/{split}-*.parquet", f"{split}/*.parquet", f"*/{split}/*.parquet")
    found = next((files for p in patterns if (files := sorted(root.glob(p)))), [])
    if len(found) > 1:
        raise UserError(f"data.root: {root} has {len(found)} files for {split}, first {found[0].name}: one is expected")
    return found[0] if found else None


def root_table(root: str | Path, split: str, skip: bool = False) -> Table:
    """A split of a local copy."""
    path = split_file(root, split)
    if path is None:
        here = sorted(p.name for p in Path(root).expanduser().iterdir())
        raise UserError(
            f"data.root: {root} has no {split} split ({split}.jsonl or {split}-00000-of-00001.parquet); it has "
            f"{', '.join(here[:8]) or 'nothing'}"
        )
    return read_table(path, skip=skip)


def hub_tables(
    name: str, config: str | None = None, revision: str | None = None, skip: bool = False
) -> dict[str, Table]:
    """All splits of a data set on the hub."""
    import datasets

    try:
        loaded = datasets.load_dataset(name, config, revision=revision)
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"data: '{name}' cannot be fetched from the hub ({said[0]:.200}); for a local copy give its files instead"
        ) from None
    tables = {}
    for split, data in loaded.items():
        names = {n: list(f.names) for n, f in data.features.items() if isinstance(f, datasets.ClassLabel)}
        where = f"{name}{'/' + config if config else ''} {split}"
        columns = {n: list(data[n]) for n in data.column_names}
        tables[str(split)] = Table(where, columns, names, bad={} if skip else None)
    return tables
