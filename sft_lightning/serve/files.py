"""Reads samples to answer from files, folders, tables and lines."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.audio.listed import FILE_COLUMNS
from sft_lightning.data.audio.reading import SOUNDS
from sft_lightning.data.bad_samples import printable
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.files import FORMATS, Table, check_text, read_table
from sft_lightning.data.text.own_texts import check_words, column_of
from sft_lightning.data.text.squad_files import read_questions
from sft_lightning.data.vision.walk import IMAGES, LeftOut, images_below
from sft_lightning.serve.items import Item, Reader

KEY = "--input"
STDIN = "-"
FILES = {"images": IMAGES, "sounds": SOUNDS}
"""Files of samples that are not texts, by what the model takes"""
IMAGE_COLUMNS = ("file_name", "file", "image", "path", "filename")
NEVER_LINES = ("questions", "choices")
"""Kinds of input whose samples have parts, so that a line must be a JSON object"""


@dataclass
class Inputs:
    """Samples to answer, read one by one.

    Args:
        where: Their file or folder, for messages.
        labels: For each sample, what names it in the output: `line` or `file`.
        item: Reads one sample by its number. Raises UserError for one that cannot be used.
        digest: Hash of the samples.
        notes: What was left out.
    """

    where: str
    labels: Sequence[dict[str, Any]]
    item: Callable[[int], Item]
    digest: str
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)


def read_inputs(place: str, reader: Reader, arguments: Mapping[str, Any]) -> Inputs:
    """Opens what `--input` names. Raises UserError if it does not exist, or does not fit the model.

    Args:
        place: A file, a folder, a table, or `-` for the lines of standard input.
        reader: The model's reader.
        arguments: Arguments of the data that the model was tuned on, which name columns.
    """
    path = Path(place).expanduser()
    if place != STDIN and not path.exists():
        here = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            KEY, f"{place} does not exist{nearest(path.name, here)}", "name a file, a folder, or - for stdin"
        )
    lines = place == STDIN or path.suffix.lower() == ".txt"
    if reader.takes in FILES:
        if path.is_dir():
            return of_folder(path, reader.takes)
        if lines:
            named = read_lines(place)
            return of_files([Path(line) for line in named], [{"file": n} for n in named], reader.takes, place)
        if path.suffix.lower() in FORMATS:
            return of_listed(read_table(path, KEY, skip=True), path.parent, reader, arguments)
        return of_files([path], [{"file": printable(path.name)}], reader.takes, place)
    if path.is_dir():
        raise UserError(KEY, f"{place} is a folder, and the model takes texts", "name a file")
    if lines:
        return of_lines(read_lines(place), place, reader, arguments)
    read = read_questions if reader.kind == "questions" else read_table
    return of_table(read(path, KEY, skip=True), reader, arguments)


def read_lines(place: str) -> list[str]:
    """The lines of a file or of standard input. Raises UserError if they are not UTF-8, or if there is none."""
    if place == STDIN and sys.stdin.isatty():
        raise UserError(KEY, "is missing, and standard input is a terminal", "name a file, or pipe lines into predict")
    try:
        raw = sys.stdin.buffer.read() if place == STDIN else Path(place).expanduser().read_bytes()
        lines = raw.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(KEY, f"{place} has a byte that is not UTF-8 at {error.start:,}", "write it again") from None
    except OSError as error:
        raise UserError(KEY, f"{place} cannot be read: {error.strerror}") from None
    lines = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    if not lines:
        raise UserError(KEY, f"{'standard input' if place == STDIN else place} has no lines")
    return lines


# ---- images and sounds ----


def of_folder(root: Path, takes: str) -> Inputs:
    """All images or sounds below a folder, sorted by path."""
    wanted, out = FILES[takes], LeftOut(FILES[takes])
    paths = images_below(root, out)
    if not paths:
        raise UserError(KEY, f"{root} has no {takes} ({', '.join(wanted.suffixes)})", "use another folder")
    made = of_files(paths, [{"file": printable(p.relative_to(root).as_posix())} for p in paths], takes, str(root))
    made.notes = out.lines()
    return made


def of_listed(table: Table, root: Path, reader: Reader, arguments: Mapping[str, Any]) -> Inputs:
    """The files that a table names, relative to its folder."""
    columns = IMAGE_COLUMNS if reader.takes == "images" else FILE_COLUMNS
    given = arguments.get("file_column")
    name = next((n for n in ([given] if given else columns) if n in table.columns), None)
    if name is None:
        raise UserError(KEY, f"{table.where} has no column {' or '.join(columns)}, only {', '.join(table.columns)}")
    values = [str(value or "") for value in table.columns[name]]
    labels = [{"file": value} for value in values]
    return of_files([root / value for value in values], labels, reader.takes, table.where)


def of_files(paths: Sequence[Path], labels: Sequence[dict[str, Any]], takes: str, where: str) -> Inputs:
    """Files as samples. Those that cannot be opened are unreadable one by one."""

    def item(number: int) -> Item:
        name = str(labels[number]["file"])
        try:
            data = paths[number].expanduser().read_bytes()
        except OSError as error:
            raise UserError("data", f"{name} cannot be opened: {error.strerror}") from None
        return Item(name, image=data) if takes == "images" else Item(name, sound=data)

    return Inputs(where, labels, item, digest_of([*map(facts, paths)]))


def facts(path: Path) -> list[Any]:
    """What tells whether a file is still the same."""
    try:
        status = path.expanduser().stat()
    except OSError:
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]


def digest_of(content: Any) -> str:
    """Hash of plain values."""
    return sha256(json.dumps(content, default=str).encode("utf-8", "surrogatepass")).hexdigest()


# ---- texts ----


def of_lines(lines: list[str], place: str, reader: Reader, arguments: Mapping[str, Any]) -> Inputs:
    """Lines as texts; as JSON objects, if each full line is one, or if the model's samples have parts."""
    rows = [object_of(line) for line in lines]
    full = [row for row, line in zip(rows, lines, strict=True) if line.strip()]
    if reader.kind in NEVER_LINES or (full and all(row is not None for row in full)):
        names = dict.fromkeys(name for row in rows if row is not None for name in row)
        if not names:
            raise UserError(KEY, f"{place} has no JSON objects with {' and '.join(reader.fields)}", "write one a line")
        columns = {name: [None if row is None else row.get(name) for row in rows] for name in names}
        bad = {n: "is not a JSON object" for n, row in enumerate(rows) if row is None}
        return of_table(Table(place, columns, lines=[*range(1, len(lines) + 1)], bad=bad), reader, arguments)

    def item(number: int) -> Item:
        name = f"line {number + 1}"
        check_text(lines[number], "the text", name, "data")
        return Item(name, lines[number])

    return Inputs(place, [{"line": n + 1} for n in range(len(lines))], item, digest_of(lines))


def object_of(line: str) -> dict[str, Any] | None:
    """A line's JSON object; None if it is something else."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def of_table(table: Table, reader: Reader, arguments: Mapping[str, Any]) -> Inputs:
    """The rows of a table; columns are those that the run's data had."""
    for option in arguments.get("given") or ():
        table.column(str(arguments[option]), f"--{option}")
    make = {"text": texts_in, "words": words_in, "pairs": sources_in}.get(reader.kind, fields_in)(
        table, reader, arguments
    )

    def item(number: int) -> Item:
        if why := (table.bad or {}).get(number):
            raise UserError("data", f"{table.name(number)} {why}")
        return make(number)

    labels = [{"line": line} for line in table.lines] if table.lines else [{} for _ in range(len(table))]
    return Inputs(table.where, labels, item, digest_of(table.columns), list(table.notes))


Make = Callable[[int], Item]


def text_column(table: Table, named: str | None) -> str:
    """The column with texts: the one of the run's data if it is there, else `text`, else the only column of texts."""
    return column_of(table, named if named in table.columns else None)


def texts_in(table: Table, reader: Reader, arguments: Mapping[str, Any]) -> Make:
    """Texts, with their second ones if the model was tuned on pairs."""
    first, second = text_column(table, arguments.get("text_column")), arguments.get("pair_column")
    if second is not None:
        table.column(second, "--pair_column")

    def make(row: int) -> Item:
        name, text = table.name(row), table.columns[first][row]
        check_text(text, f"column '{first}'", name, "--text_column")
        pair = table.columns[second][row] if second is not None else None
        if second is not None:
            check_text(pair, f"column '{second}'", name, "--pair_column")
        return Item(name, text, pair)

    return make


def words_in(table: Table, reader: Reader, arguments: Mapping[str, Any]) -> Make:
    """Texts to tag, or lists of words."""
    column = text_column(table, arguments.get("text_column"))

    def make(row: int) -> Item:
        name, value = table.name(row), table.columns[column][row]
        if isinstance(value, list):
            return Item(name, words=tuple(check_words(value, column, name)))
        check_text(value, f"column '{column}'", name, "--text_column")
        return Item(name, value)

    return make


def sources_in(table: Table, reader: Reader, arguments: Mapping[str, Any]) -> Make:
    """Source texts."""
    named = arguments.get("text_column") or arguments.get("source_column") or "source"
    return texts_in(table, reader, {"text_column": named})


def fields_in(table: Table, reader: Reader, arguments: Mapping[str, Any]) -> Make:
    """Samples with parts: the columns that hold them, by the part's name."""
    columns = {name: str(arguments.get(f"{name}_column") or name) for name in reader.fields}
    if reader.kind == "tokens" and "messages" not in table.columns:
        columns["messages"] = next((n for n in ("conversations", "conversation") if n in table.columns), "messages")
    columns = {name: column for name, column in columns.items() if column in table.columns}
    several = arguments.get("choice_columns") if "choices" in reader.fields else None
    if not columns and reader.kind == "tokens":
        return texts_in(table, reader, {"text_column": arguments.get("text_column")})
    if not columns:
        raise UserError(
            KEY, f"{table.where} has no column {' or '.join(reader.fields)}, only {', '.join(table.columns)}"
        )

    def make(row: int) -> Item:
        held = {name: table.columns[column][row] for name, column in columns.items()}
        if several and "choices" not in held:
            held["choices"] = [table.column(name, "data.choice_columns")[row] for name in several]
        return Item(table.name(row), row={name: value for name, value in held.items() if not missing(value)})

    return make
