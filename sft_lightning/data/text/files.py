"""Tables of texts as they lie on disk or on the hub: CSV, TSV, JSON, JSONL, parquet. Every error names file and row."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.errors import UserError, nearest

FORMATS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


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

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def name(self, row: int) -> str:
        """`train.csv line 7`, or `train.parquet row 5`."""
        return f"{self.where} line {self.lines[row]}" if self.lines else f"{self.where} row {row}"

    def column(self, name: str, argument: str) -> list[Any]:
        """A column's values; `argument` is the key that names the column."""
        if name not in self.columns:
            raise UserError(
                f"data: {self.where} has no column '{name}'{nearest(name, self.columns)}; it has "
                f"{', '.join(self.columns)}: set {argument}"
            )
        return self.columns[name]

    def texts(self, name: str, argument: str, allow_empty: bool = False) -> list[str]:
        """A column of texts."""
        values = self.column(name, argument)
        for row, value in enumerate(values):
            check_text(value, f"column '{name}'", self.name(row), argument, allow_empty)
        if values and all(_is_number(v) for v in values):
            raise UserError(
                f"data: {self.where}: column '{name}' holds numbers, not texts: set {argument} to the texts'"
            )
        return values

    def numbers(self, name: str, argument: str) -> np.ndarray:
        """A column of finite numbers, float32."""
        found = np.empty(len(self), dtype=np.float32)
        for row, value in enumerate(self.column(name, argument)):
            try:
                found[row] = float(value)
            except (TypeError, ValueError):
                found[row] = np.nan
            if not np.isfinite(found[row]):
                raise UserError(f"data: {self.name(row)}: {name} is {value!r}, not a finite number")
        return found


def check_text(value: Any, what: str, row: str, argument: str, allow_empty: bool = False) -> None:
    """Raises UserError unless `value` is a text with something in it."""
    if value is None:
        raise UserError(f"data: {row}: {what} has no value: fill it or remove the row")
    if not isinstance(value, str):
        kind = "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}"
        raise UserError(f"data: {row}: {what} holds {kind} ({value!r:.40}), not a text: set {argument} to the texts'")
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
    found = {str(v) for v in table.column(column, "data.label_column") if v is not None}
    return sorted(found, key=lambda v: (not v.lstrip("-").isdigit(), int(v) if v.lstrip("-").isdigit() else 0, v))


def class_numbers(table: Table, column: str, classes: Sequence[str]) -> np.ndarray:
    """Class of each row: by name, or by number where the names are not numbers themselves."""
    by_name = {name: i for i, name in enumerate(classes)}
    numeric = any(name.lstrip("-").isdigit() for name in classes)
    found = np.empty(len(table), dtype=np.int64)
    for row, value in enumerate(table.column(column, "data.label_column")):
        text = str(value)
        if column in table.names and isinstance(value, int) and 0 <= value < len(table.names[column]):
            text = table.names[column][value]
        if text in by_name:
            found[row] = by_name[text]
        elif not numeric and text.isdigit() and int(text) < len(classes):
            found[row] = int(text)
        else:
            raise UserError(
                f"data: {table.name(row)}: label {value!r} is none of the {len(classes)} classes "
                f"{', '.join(classes[:12])}{nearest(text, classes)}; set data.labels to all of them"
            )
    return found


# ---- reading ----


def read_table(path: str | Path, where: str = "data") -> Table:
    """Reads a file by its suffix; `where` is the key that names it."""
    path = Path(path).expanduser()
    if not path.is_file():
        here = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{where}: {path} does not exist{nearest(path.name, here)}")
    readers = {".csv": _csv, ".tsv": _csv, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}
    if path.suffix.lower() not in readers:
        raise UserError(f"{where}: {path} is none of {', '.join(FORMATS)}")
    try:
        table = readers[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise UserError(f"data: {path} is not UTF-8 at byte {error.start}: convert it") from None
    except OSError as error:
        raise UserError(f"data: {path} cannot be read: {error}") from None
    if not len(table):
        raise UserError(f"data: {path} has no rows")
    return table


def _csv(path: Path) -> Table:
    csv.field_size_limit(2**31 - 1)
    rows: list[list[str]] = []
    lines: list[int] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            header = next(reader, [])
            start = reader.line_num + 1
            for row in reader:
                if row and len(row) != len(header):
                    raise UserError(
                        f"data: {path} line {start} is malformed: {len(row)} fields where the header has {len(header)}"
                    )
                if row:
                    rows.append(row)
                    lines.append(start)
                start = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"data: {path} line {reader.line_num} is malformed: {error}") from None
    return Table(str(path), {name: [r[i] for r in rows] for i, name in enumerate(header)}, lines=lines)


def _jsonl(path: Path) -> Table:
    rows, lines = [], []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"data: {path} line {number} is malformed: {error}") from None
            if not isinstance(row, dict):
                raise UserError(f"data: {path} line {number} is malformed: a {type(row).__name__}, not an object")
            rows.append(row)
            lines.append(number)
    return _of_rows(str(path), rows, lines)


def _json(path: Path) -> Table:
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = json.loads(text)
    except ValueError as error:
        if "Extra data" in str(error):  # one object a line, whatever the suffix says
            return _jsonl(path)
        raise UserError(f"data: {path} is malformed: {error}") from None
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise UserError(f"data: {path} is malformed: a {type(rows).__name__}, not a list of objects")
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"data: {path} row {number} is malformed: a {type(row).__name__}, not an object")
    return _of_rows(str(path), rows, None)


def _of_rows(where: str, rows: list[dict[str, Any]], lines: list[int] | None) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(where, {name: [row.get(name) for row in rows] for name in names}, lines=lines)


def _parquet(path: Path) -> Table:
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    try:
        table = parquet.read_table(path)
    except ArrowException as error:
        raise UserError(f"data: {path} is damaged or no parquet file: {str(error).splitlines()[0]}") from None
    about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    names = {n: list(f["names"]) for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    return Table(str(path), {name: table.column(name).to_pylist() for name in table.column_names}, names)


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


def root_table(root: str | Path, split: str) -> Table:
    """A split of a local copy."""
    path = split_file(root, split)
    if path is None:
        here = sorted(p.name for p in Path(root).expanduser().iterdir())
        raise UserError(
            f"data.root: {root} has no {split} split ({split}.jsonl or {split}-00000-of-00001.parquet); it has "
            f"{', '.join(here[:8]) or 'nothing'}"
        )
    return read_table(path)


def hub_tables(name: str, config: str | None = None, revision: str | None = None) -> dict[str, Table]:
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
        tables[str(split)] = Table(where, {n: list(data[n]) for n in data.column_names}, names)
    return tables
