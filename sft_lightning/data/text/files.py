"""Reads tables of texts from disk or the hub: CSV, TSV, JSON, JSONL, parquet. Every error names file and row."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.saved import is_saved, load_saved
from sft_lightning.data.text.cells import missing, number, numbers, shown
from sft_lightning.data.text.delimited import read_rows
from sft_lightning.data.text.features import class_names_of
from sft_lightning.data.text.utf8 import NO_TEXT, not_utf8, open_text

DELIMITED = (".csv", ".tsv")
FORMATS = (*DELIMITED, ".jsonl", ".json", ".parquet")
KINDS = {
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "an object",
    "NoneType": "null",
}
Bad = dict[int, str] | None
"""Rows that cannot be used, and why; None if the first of them is an error."""
LARGEST = float(np.finfo(np.float32).max)
REMEDY = "fill it or remove the row, or set data.on_bad_sample skip"


@dataclass
class Table:
    """Rows of named columns. A missing value is None."""

    where: str
    """File or hub name, for messages"""
    columns: dict[str, list[Any]]
    names: dict[str, list[str]] = field(default_factory=dict)
    """Class names of columns of integers, or of lists of integers, if the file has them"""
    lines: list[int] | None = None
    """Line number of each row; None for files without lines"""
    bad: Bad = None
    notes: list[str] = field(default_factory=list)
    """What reading guessed or converted, one line each"""

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
                "data",
                f"{self.where} has no column '{name}', only {', '.join(self.columns)}{nearest(name, self.columns)}",
                f"set {argument}",
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
        if numbers(good) is not None:
            raise UserError("data", f"{self.where}: column '{name}' holds numbers, not texts", texts_fix(argument))
        return values

    def numbers(self, name: str, argument: str) -> np.ndarray:
        """A column of finite numbers, float32; NaN in rows that are left out. Different numbers that become one are noted."""
        found = np.full(len(self), np.nan)
        for row, value in enumerate(self.column(name, argument)):
            read = number(value)
            if missing(value):
                self.refuse(row, UserError("data", f"{self.name(row)}: column '{name}' has no value", REMEDY))
            elif read is None or abs(read) > LARGEST:
                problem = f"{self.name(row)}: column '{name}' is {shown(value)}, not a finite number"
                self.refuse(row, UserError("data", problem, REMEDY.replace("fill it", "write a number")))
            else:
                found[row] = read
        single = found.astype(np.float32)
        if (before := len(np.unique(found))) > (after := len(np.unique(single))):  # both count NaN once
            said = f"{self.where}: {before:,} different numbers in column '{name}' are {after:,} in single precision"
            self.notes.append(f"{said}; write differences from one number, or other units")
        return single


def check_text(value: Any, what: str, row: str, argument: str, allow_empty: bool = False) -> None:
    """Raises UserError unless `value` is a text with something in it."""
    if missing(value) and not isinstance(value, str):
        raise UserError("data", f"{row}: {what} has no value", "fill it or remove the row")
    if not isinstance(value, str):
        kind = KINDS.get(type(value).__name__, f"a {type(value).__name__}")
        raise UserError("data", f"{row}: {what} holds {kind} ({value!r:.40}), not a text", texts_fix(argument))
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"{value[error.start]!r} at character {error.start}"
        raise UserError(
            "data", f"{row}: {what} has half a character ({half})", "write it whole, or remove the row"
        ) from None
    if not allow_empty and not value.strip():
        raise UserError("data", f"{row}: {what} is empty", "fill it or remove the row")


def texts_fix(argument: str) -> str:
    """The fix for a column without texts; `argument` is the key that names the column, or the file."""
    return f"set {argument} to a column of texts" if argument.endswith("_column") else "write a text"


# ---- reading ----


def read_table(
    path: str | Path, where: str = "data", skip: bool = False, leave_out: Sequence[str] = (), header: bool = True
) -> Table:
    """Reads a file by its suffix.

    Args:
        path: The file.
        where: The key that names it.
        skip: Leave out rows that cannot be used.
        leave_out: Columns that are not read from a parquet file.
        header: Whether the first line of a .csv or .tsv names its columns; if not, they are named 1, 2 and so on.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        saved = "set data.path to it, or write each split of it with to_parquet"
        raise UserError(where, f"{path} is a folder", saved if is_saved(path) else "name a file in it")
    if not path.is_file():
        here = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(where, f"{path} does not exist{nearest(path.name, here)}")
    suffix = path.suffix.lower()
    bad: Bad = {} if skip else None
    if suffix not in FORMATS:
        raise UserError(where, f"{path} has an unknown suffix", f"use one of {', '.join(FORMATS)}")
    try:
        if suffix == ".parquet":
            table = _parquet(path, bad, leave_out)
        elif suffix in DELIMITED:
            table = _delimited(path, bad, header)
        else:
            table = (_jsonl if suffix == ".jsonl" else _json)(path, bad)
    except UnicodeDecodeError:
        if suffix == ".parquet":
            raise UserError("data", f"{path} has a text that is not UTF-8", "write the file again") from None
        raise not_utf8(path) from None
    except OSError as error:
        raise UserError("data", f"{path} cannot be read: {error}") from None
    if not len(table):
        raise UserError("data", f"{path} has no rows", "use another file")
    return table


def _refuse(bad: Bad, row: int, where: str, why: str) -> None:
    if bad is None:
        raise UserError("data", f"{where} is malformed: {why}", "mend or remove it") from None
    bad[row] = f"malformed: {why}"


def _delimited(path: Path, bad: Bad, header: bool) -> Table:
    rows = read_rows(path, bad is None, header)
    if bad is not None:
        bad |= {row: f"malformed: {why}" for row, why in rows.malformed.items()}
    columns = {name: [row[i] for row in rows.cells] for i, name in enumerate(rows.header)}
    return Table(str(path), columns, lines=rows.lines, bad=bad, notes=rows.notes)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object of JSON. Raises ValueError if a name occurs twice, since one value would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(n for n in names if names.count(n) > 1)}' occurs twice in one object")
    return found


def _jsonl(path: Path, bad: Bad) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    with open_text(path, bad is None) as file:
        for at, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row, why = json.loads(line, object_pairs_hook=once), ""
            except (ValueError, RecursionError) as error:
                row, why = {}, str(error)
            if not isinstance(row, dict):
                row, why = {}, f"{KINDS.get(type(row).__name__, 'a value')}, not an object"
            if bad is not None and NO_TEXT.search(line):
                why = "not UTF-8"
            if why:
                _refuse(bad, len(rows), f"{path} line {at}", why)
            rows.append({} if why else row)
            lines.append(at)
    return _of_rows(str(path), rows, lines, bad)


def _json(path: Path, bad: Bad) -> Table:
    with open_text(path, True) as file:
        text = file.read()
    try:
        rows = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        if "Extra data" in str(error):  # one object a line, whatever the suffix says
            return _jsonl(path, bad)
        raise UserError("data", f"{path} is malformed: {error}", "mend it") from None
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        kind = KINDS.get(type(rows).__name__, "a value")
        raise UserError("data", f"{path} is malformed: it holds {kind}, not a list of objects", "mend it")
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            _refuse(bad, at, f"{path} row {at}", f"{KINDS.get(type(row).__name__, 'a value')}, not an object")
            rows[at] = {}
    return _of_rows(str(path), rows, None, bad)


def _of_rows(where: str, rows: list[dict[str, Any]], lines: list[int] | None, bad: Bad) -> Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return Table(where, {name: [row.get(name) for row in rows] for name in names}, lines=lines, bad=bad)


def _parquet(path: Path, bad: Bad, leave_out: Sequence[str] = ()) -> Table:
    """A parquet file without the columns to leave out."""
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]

    try:
        schema = parquet.read_schema(path)
        names = schema.names
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError("data", f"{path} has {names.count(twice)} columns '{twice}'", "rename or remove one")
        table = parquet.read_table(path, columns=[n for n in names if n not in leave_out] if leave_out else None)
    except ArrowException as error:
        problem = f"{path} cannot be read as a parquet file: {str(error).splitlines()[0]}"
        raise UserError("data", problem, "write the file again") from None
    about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = about.get("info", {}).get("features", {})
    classes = {n: names for n, f in features.items() if (names := class_names_of(f)) is not None}
    return Table(str(path), {n: table.column(n).to_pylist() for n in table.column_names}, classes, bad=bad)


def check_hub(path: str | None, config: str | None, files: Mapping[str, Any]) -> None:
    """Raises UserError for arguments without effect: `config` without a hub data set, or files beside it, whose splits are
    taken.
    """
    if path is None and config is not None:
        raise UserError("data.config", "has no effect without data.path", "leave it null")
    for split in ("val", "test") if path is not None else ():
        if files.get(split) is not None:
            what = "has no effect with data.path, whose own splits are taken"
            raise UserError(f"data.{split}", what, "leave it null, or give files for all splits")


def hub_tables(
    name: str, config: str | None = None, revision: str | None = None, skip: bool = False
) -> dict[str, Table]:
    """All splits of a data set on the hub, or of a folder that `save_to_disk` of `datasets` wrote."""
    import datasets

    tables = {}
    if is_saved(name):
        if config is not None:
            raise UserError("data.config", f"has no effect on {name}, a saved folder", "leave it null")
        loaded = load_saved(name)
    else:
        try:
            loaded = datasets.load_dataset(name, config, revision=revision)
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            problem = f"'{name}' cannot be fetched from the hub ({said[0]:.200})"
            raise UserError("data", problem, "give the files of a local copy instead") from None
    for split, data in loaded.items():
        features = data.features.to_dict()
        names = {n: found for n, f in features.items() if (found := class_names_of(f)) is not None}
        where = f"{name}{'/' + config if config else ''} {split}"
        columns = {n: list(data[n]) for n in data.column_names}
        tables[str(split)] = Table(where, columns, names, bad={} if skip else None)
    return tables
