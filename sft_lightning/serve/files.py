"""Reads samples to answer from files, folders, tables and lines."""

import json
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.audio.listed import FILE_COLUMNS
from sft_lightning.data.audio.reading import SOUNDS
from sft_lightning.data.bad_samples import printable
from sft_lightning.data.text.files import DELIMITED, FORMATS, Table, check_text, once, read_table
from sft_lightning.data.text.parallel import pair_table, with_languages
from sft_lightning.data.text.squad_files import read_questions
from sft_lightning.data.text.utf8 import MARKS, NO_TEXT
from sft_lightning.data.vision.walk import IMAGES, LeftOut, images_below
from sft_lightning.serve.inputs import KEY, Inputs, digest_of
from sft_lightning.serve.items import Item, Reader
from sft_lightning.serve.tables import of_table

STDIN = "-"
FILES = {"images": IMAGES, "sounds": SOUNDS}
"""Files of samples that are not texts, by what the model takes"""
IMAGE_COLUMNS = ("file_name", "file", "image", "path", "filename")
NEVER_LINES = ("questions", "choices")
"""Kinds of input whose samples have parts, so that a line must be a JSON object"""


def read_inputs(place: str, reader: Reader, arguments: Mapping[str, Any]) -> Inputs:
    """Opens what `--input` names. Raises UserError if it does not exist, or does not fit the model.

    Args:
        place: A file, a folder, a table, or `-` for the lines of standard input.
        reader: The model's reader.
        arguments: Arguments of the data that the model was tuned on, which name columns; `given` lists those that the command
            sets.
    """
    made = opened(place, reader, arguments)
    made.digest = digest_of([made.digest, arguments])  # another column has other samples
    return made


def opened(place: str, reader: Reader, arguments: Mapping[str, Any]) -> Inputs:
    """As `read_inputs`, but the digest is of what is read alone."""
    path = Path(place).expanduser()
    if place != STDIN and not path.exists():
        here = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(
            KEY, f"{place} does not exist{nearest(path.name, here)}", "name a file, a folder, or - for stdin"
        )
    suffix = path.suffix.lower()
    piped = suffix not in FORMATS and (path.is_fifo() or path.is_char_device())  # such as /dev/stdin
    lines = place == STDIN or suffix == ".txt" or piped
    if reader.takes in FILES:
        if path.is_dir():
            return of_folder(path, reader.takes)
        if lines:
            return of_names(read_lines(place), reader.takes, called(place))
        if suffix in FORMATS:
            return of_listed(read_table(path, KEY, skip=True), path.parent, reader, arguments)
        return of_files([path], [{"file": printable(path.name)}], reader.takes, place)
    if path.is_dir():
        raise UserError(KEY, f"{place} is a folder, and the model takes texts", "name a file")
    if lines:
        return of_lines(read_lines(place), called(place), reader, arguments)
    bare = arguments.get("header") is False and suffix in DELIMITED  # as the run's data had none
    if reader.kind == "pairs" and bare and not arguments.get("given"):
        return of_table(pair_table(path, KEY, skip=True, header=False), reader, arguments)
    read = read_questions if reader.kind == "questions" else read_table
    table = read(path, KEY, skip=True)
    return of_table(with_languages(table) if reader.kind == "pairs" else table, reader, arguments)


def called(place: str) -> str:
    """What messages call an input."""
    return "standard input" if place == STDIN else place


def read_lines(place: str) -> list[str]:
    """The lines of a file or of standard input; `NO_TEXT` finds bytes that are not UTF-8. Raises UserError if there is none."""
    if place == STDIN and sys.stdin.isatty():
        raise UserError(KEY, "is missing, and standard input is a terminal", "name a file, or pipe lines into predict")
    try:
        raw = sys.stdin.buffer.read() if place == STDIN else Path(place).expanduser().read_bytes()
    except OSError as error:
        raise UserError(KEY, f"{place} cannot be read: {error.strerror}") from None
    if (coding := next((name for mark, name in MARKS.items() if raw.startswith(mark)), None)) is not None:
        raise UserError(KEY, f"{called(place)} is {coding}, not UTF-8", f"convert it (iconv -f {coding} -t UTF-8)")
    lines = raw.decode("utf-8-sig", "surrogateescape").split("\n")
    lines = [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]
    if not lines:
        raise UserError(KEY, f"{called(place)} has no lines")
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
    paths, labels, bad = list[Path](), list[dict[str, Any]](), dict[int, UserError]()
    for row, value in enumerate(table.columns[name]):
        try:
            if why := (table.bad or {}).get(row):
                raise UserError("data", f"{table.name(row)} {why}")
            check_text(value, f"column '{name}'", table.name(row), KEY)
        except UserError as error:
            bad[row], value = error, ""
        paths.append(root / value)
        labels.append({"file": value})
    made = of_files(paths, labels, reader.takes, table.where, bad)
    made.notes = list(table.notes)
    return made


def of_names(lines: list[str], takes: str, where: str) -> Inputs:
    """The files that lines name."""
    blank = {n: UserError("data", f"line {n + 1} is blank") for n, line in enumerate(lines) if not line.strip()}
    return of_files([*map(Path, lines)], [{"file": printable(line)} for line in lines], takes, where, blank)


def of_files(
    paths: Sequence[Path],
    labels: Sequence[dict[str, Any]],
    takes: str,
    where: str,
    bad: Mapping[int, UserError] | None = None,
) -> Inputs:
    """Files as samples. Those that cannot be opened are unreadable one by one, as are those of `bad`."""

    def item(number: int) -> Item:
        name = str(labels[number]["file"])
        if bad and number in bad:
            raise bad[number]
        try:
            data = paths[number].expanduser().read_bytes()
        except (OSError, ValueError, RuntimeError) as error:  # a name may hold a null byte, or begin with ~nobody
            why = error.strerror if isinstance(error, OSError) else error
            raise UserError("data", f"{name} cannot be opened: {why}") from None
        return Item(name, image=data) if takes == "images" else Item(name, sound=data)

    return Inputs(where, labels, item, digest_of([*map(facts, paths)]))


def facts(path: Path) -> list[Any]:
    """What tells whether a file is still the same."""
    try:
        status = path.expanduser().stat()
    except (OSError, ValueError, RuntimeError):
        return [str(path)]
    if not stat.S_ISREG(status.st_mode):  # a folder changes whenever an output is written into it
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]


# ---- texts ----


def of_lines(lines: list[str], where: str, reader: Reader, arguments: Mapping[str, Any]) -> Inputs:
    """Lines as texts; as JSON objects, if most begin like one and some are, or if the model's samples have parts."""
    rows = [object_of(line) for line in lines]
    full, objects = sum(bool(line.strip()) for line in lines), sum(row is not None for row in rows)
    likely = objects > 0 and 2 * sum(line.lstrip().startswith("{") for line in lines) > full
    mixed = f"{where} has JSON objects in {objects:,} of {plural(full, 'full line')}, and is read as "
    if reader.kind in NEVER_LINES or likely:
        names = dict.fromkeys(name for row in rows if row is not None for name in row)
        if not names:
            raise UserError(KEY, f"{where} has no JSON objects with {' and '.join(reader.fields)}", "write one a line")
        columns = {name: [None if row is None else row.get(name) for row in rows] for name in names}
        bad = {n: "is not a JSON object" if lines[n].strip() else "is blank" for n, r in enumerate(rows) if r is None}
        table = Table(where, columns, lines=[*range(1, len(lines) + 1)], bad=bad)
        table.notes += [f"{mixed}JSON objects"] if objects < full else []
        return of_table(table, reader, arguments)
    if given := arguments.get("given"):
        raise UserError(f"--{given[0]}", f"has no effect on {where}, whose lines are texts", "leave it out")

    def item(number: int) -> Item:
        name = f"line {number + 1}"
        if NO_TEXT.search(lines[number]):
            raise UserError("data", f"{name} is not UTF-8")
        check_text(lines[number], "the text", name, "data")
        return Item(name, lines[number])

    notes = [f"{mixed}texts"] if objects else []
    return Inputs(where, [{"line": n + 1} for n in range(len(lines))], item, digest_of(lines), notes)


def object_of(line: str) -> dict[str, Any] | None:
    """A line's JSON object; None if it is something else."""
    if not line.lstrip().startswith("{") or NO_TEXT.search(line):
        return None
    try:
        found = json.loads(line, object_pairs_hook=once)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
