"""Reads pairs of a source text and its target texts: from two files line by line, or from columns of a table."""

from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.text.cells import missing, numbers
from sft_lightning.data.text.files import DELIMITED, FORMATS, REMEDY, Table, check_text, read_table, texts_fix
from sft_lightning.data.text.utf8 import NO_TEXT, not_utf8, open_text

SOURCE, TARGET = "source", "target"
FEATURE = "translation"
"""The hub's column with an object of texts by language"""
SENTENCE, WORDS = (".", "!", "?", "…", "。", "！", "？", "।", "؟"), 4
"""What ends a text, and the fewest words of a text without such an end, where a name of a column would be"""


def lines_of(path: str, key: str, skip: bool) -> list[str]:
    r"""The lines of a UTF-8 file. Only \n (or \r\n) ends a line, as in `wc -l`; the last line may lack it."""
    place = Path(path).expanduser()
    if not place.is_file():
        here = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        problem = f"{path} is a folder" if place.is_dir() else f"{path} does not exist{nearest(place.name, here)}"
        raise UserError(key, problem, "name a file with one text a line")
    try:
        with open_text(place, strict=not skip) as file:
            lines = file.read().split("\n")
    except UnicodeDecodeError:
        raise not_utf8(place) from None
    except OSError as error:
        raise UserError(key, f"{path} cannot be read: {error}") from None
    if not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(key, f"{path} is empty", "use another file")
    return [line.removesuffix("\r") for line in lines]


def parallel_table(source: str, target: str | None, key: str, skip: bool) -> Table:
    """A table with the lines of two files, or of one. Raises UserError if they have unequal numbers of lines."""
    columns: dict[str, list[Any]] = {SOURCE: lines_of(source, key, skip)}
    if target is not None:
        columns[TARGET] = lines_of(target, key, skip)
        counts = [len(lines) for lines in columns.values()]
        if counts[0] != counts[1]:
            raise UserError(
                key,
                f"{source} has {plural(counts[0], 'line')} and {target} has {counts[1]:,}, so they are not pairs",
                "give files whose lines belong together",
            )
    return Table(source, columns, lines=list(range(1, len(columns[SOURCE]) + 1)), bad={} if skip else None)


def pair_table(path: str | Path, key: str, skip: bool, header: bool) -> Table:
    """Reads a table of pairs. Without a header, its columns are source, target, 3, 4 and so on.

    Raises:
        UserError: There is no header in a format whose rows name their values.
    """
    if header or Path(path).suffix.lower() not in DELIMITED:
        if not header:
            what = f"false has no effect on {path}, whose rows name their values"
            raise UserError("data.header", what, f"leave it out; it is for {' and '.join(DELIMITED)}")
        return read_table(path, key, skip)
    table = read_table(path, key, skip, header=False)
    names = {"1": SOURCE, "2": TARGET}
    table.columns = {names.get(name, name): values for name, values in table.columns.items()}
    table.notes.append(f"{table.where}: line 1 is read as a pair; the columns are named {', '.join(table.columns)}")
    return table


def reads_like_texts(table: Table) -> bool:
    """Whether the names of a delimited file's first two columns read like texts: the file then has no header."""
    names = list(table.columns)[:2]
    delimited = Path(table.where).suffix.lower() in DELIMITED
    return delimited and len(names) == 2 and all(n.strip().endswith(SENTENCE) or len(n.split()) >= WORDS for n in names)


def languages_of(table: Table) -> list[str]:
    """The languages of a column `translation` of objects, {en: …, de: …}, in the order of the file; empty without one."""
    values = table.columns.get(FEATURE, [])
    first = next((value for value in values if not missing(value)), None)
    if not isinstance(first, dict):
        return []
    return list(dict.fromkeys(str(name) for value in values if isinstance(value, dict) for name in value))


def repeats_its_names(table: Table) -> bool:
    """Whether the name of one of a delimited file's first two columns occurs below it: the file then has no header, if these
    are texts.
    """
    delimited = Path(table.where).suffix.lower() in DELIMITED
    return delimited and any(name in values for name, values in list(table.columns.items())[:2])


def with_languages(table: Table) -> Table:
    """Replaces a column `translation` of objects, {en: …, de: …}, by one column for each language."""
    values, names = table.columns.get(FEATURE, []), languages_of(table)
    if not names:
        return table
    for row, value in enumerate(values):
        if not isinstance(value, dict):
            what = "has no value" if missing(value) else "is not an object of texts by language"
            table.refuse(row, UserError("data", f"{table.name(row)}: column '{FEATURE}' {what}", REMEDY))
    of_language = {name: [v.get(name) if isinstance(v, dict) else None for v in values] for name in names}
    table.columns = {**{n: c for n, c in table.columns.items() if n != FEATURE}, **of_language}
    return table


def sources_of(table: Table, column: str) -> list[str]:
    """Source texts; empty in rows that are left out. Raises UserError for a table's column of numbers, a mistake."""
    if column not in table.columns and Path(table.where).suffix.lower() in DELIMITED:
        what = (
            f"{table.where} has no column '{column}', only {', '.join(table.columns)}{nearest(column, table.columns)}"
        )
        fix = "set data.source_column, or, if its first line is a pair, data.header false"
        if reads_like_texts(table) or repeats_its_names(table):
            line = " | ".join(table.columns)
            what = f"{table.where} has no column '{column}': its first line, '{line:.60}', reads like a pair"
            fix = "set data.header false, or data.source_column"
        raise UserError("data", what, fix)
    made = []
    for row, value in enumerate(table.column(column, "data.source_column")):
        problem = wrong(value, f"the {SOURCE} text in column '{column}'", table.name(row), "data.source_column")
        if problem is not None:
            table.refuse(row, problem)
        made.append("" if problem is not None else value)
    if column in table.columns and not text_lines(table) and numbers(text for text in made if text) is not None:
        what = f"{table.where}: column '{column}' of {SOURCE} texts holds numbers, not texts"
        raise UserError("data", what, texts_fix("data.source_column"))
    return made


def text_lines(table: Table) -> bool:
    """Whether a table is lines of text files, which have no other columns that could be meant."""
    return Path(table.where).suffix.lower() not in FORMATS and {*table.columns} <= {SOURCE, TARGET}


def references_of(table: Table, column: str) -> list[tuple[str, ...]]:
    """Target texts of each row, one or a list of them; none in rows that are left out. Numbers are learned as texts, with a
    note.
    """
    made = []
    for row, value in enumerate(table.column(column, "data.target_column")):
        several = list(value) if isinstance(value, list | tuple) else [value]
        what = f"the {TARGET} text in column '{column}'"
        found = [wrong(one, what, table.name(row), "data.target_column") for one in several or [None]]
        problem = next((one for one in found if one is not None), None)
        if problem is not None:
            table.refuse(row, problem)
        made.append(() if problem is not None else tuple(several))
    if numbers(text for texts in made for text in texts) is not None:
        table.notes.append(
            f"{table.where}: column '{column}' of {TARGET} texts holds numbers, which are learned as texts"
        )
    return made


def wrong(value: Any, what: str, row: str, argument: str) -> UserError | None:
    """The error of a value that is no text; None for a text."""
    try:
        check_text(value, what, row, argument)
    except UserError as error:
        return UserError("data", error.problem, REMEDY if "column of texts" not in error.fix else error.fix)
    if NO_TEXT.search(value):
        return UserError("data", f"{row}: {what} is not UTF-8", REMEDY)
    return None
