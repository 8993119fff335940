"""Tagged sentences in memory, and the reader of files in columns (CoNLL): one word a line, a blank line after a sentence."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.utf8 import NO_TEXT, not_utf8, open_text

BLANK = " \t\r\n"  # characters of lines between sentences; a word may be another space, such as U+00A0
DOCUMENT = "-DOCSTART-"
COMMENT, RANGE = "a comment is left out", "a range or an empty node (1-2, 8.1) is left out"
SPACED = "a tag holds a space, because only tabs separate the columns of a line that has one"
Span = tuple[int, int]


class Sentences:
    """Sentences of a file: words, tags, the place of each in the file, and notes of what reading left out.

    Args:
        where: The file.
        skip: Whether sentences that cannot be used are left out; otherwise the first of them is an error.
    """

    def __init__(self, where: str, skip: bool = False) -> None:
        self.where = where
        self.words: list[list[str]] = []
        self.tags: list[list[str]] = []
        self.lines: list[int] = []
        self.unit = "line"
        """What `lines` counts: 'line' from 1, or 'row' from 0"""
        self.notes = Notes()
        self.about: list[str] = []
        """What reading guessed of the whole file, one line each"""
        self.bad: dict[int, str] | None = {} if skip else None
        """Sentences left out, and why; they have one word, and no tag"""
        self.names: list[str] | None = None
        """All tags in order, if the file names them"""
        self.texts: list[str] | None = None
        """Texts that the words were split from, with `spans`, the words' first character and the one after their last"""
        self.spans: list[list[Span]] = []

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(cls, words: list[list[str]], where: str) -> "Sentences":
        """Sentences in memory, without tags."""
        made = Sentences(where)
        made.words, made.tags, made.lines = words, [[""] * len(w) for w in words], list(range(1, len(words) + 1))
        return made

    def add(self, words: list[str], tags: Sequence[str], line: int) -> None:
        """Adds a sentence that begins at this line (or row)."""
        self.words.append(words)
        self.tags.append(list(tags))
        self.lines.append(line)

    def refuse(self, row: int, error: UserError) -> None:
        """Leaves a sentence out, or raises."""
        if self.bad is None:
            raise error
        self.bad.setdefault(row, str(error).removeprefix(f"{error.key}: ").removeprefix(self.name(row)).lstrip(": "))
        self.words[row], self.tags[row] = ["-"], []

    def good(self) -> list[int]:
        """The rows that can be used."""
        return [row for row in range(len(self)) if row not in (self.bad or {})]

    def name(self, row: int) -> str:
        """`train.conll line 7`."""
        return f"{self.where} {self.unit} {self.lines[row]}"


class Columns(Sentences):
    """Reads a file in columns.

    Args:
        path: The file.
        key: The option that names it, for messages.
        columns: Which columns hold word and tag, from 0; negative from the right.
        tagged: Whether there are tags to read.
        skip: Leave a sentence out if one of its lines cannot be read; otherwise that is an error.
    """

    def __init__(self, path: str, key: str, columns: tuple[int, int], tagged: bool = True, skip: bool = False) -> None:
        super().__init__(path, skip)
        lines, inside = read_lines(path, key, skip), False
        full = [line for line in lines if line.strip(BLANK)]
        tabs = 2 * sum("\t" in line.strip(BLANK) for line in full) > len(full)
        usual = None if tabs else usual_width(full)
        self.first = first_of_most(lines, tabs, usual)
        """(number, columns) of the first line that has as many columns as most, which the others must have too"""
        for number, line in enumerate(lines, 1):
            cells = line.strip(BLANK)
            if not cells or (not inside and cells.replace("\t", " ").split(" ")[0] == DOCUMENT):
                inside = False
            elif not inside and is_comment(cells, tabs, usual):
                self.notes.add(COMMENT, f"{path} line {number}")
            elif is_range(cells):
                self.notes.add(RANGE, f"{path} line {number}")
            else:
                if not inside:
                    self.add([], [], number)
                    inside = True
                self._read(line.rstrip("\r\n"), number, columns, tagged)
        if not self.words:
            raise UserError(key, f"{path} has no sentences", "use another file")

    def _read(self, line: str, number: int, columns: tuple[int, int], tagged: bool) -> None:
        """Adds a line's word to the last sentence, unless that is left out."""
        row = len(self) - 1
        try:
            word, tag = self._cells(line, number, columns, tagged)
        except UserError as error:
            self.refuse(row, error)
        if row not in (self.bad or {}):
            self.words[row].append(word)
            self.tags[row].append(tag)
            if " " in tag:
                self.notes.add(SPACED, f"{self.where} line {number}")

    def _cells(self, line: str, number: int, columns: tuple[int, int], tagged: bool) -> tuple[str, str]:
        check_utf8(line, f"{self.where} line {number}")
        cells = cells_of(line)
        if tagged and len(cells) < 2:
            raise UserError(
                "data", f"{self.where} line {number} has one column, so the tag is missing: {line!r:.40}", "add the tag"
            )
        try:
            word, tag = cells[columns[0]], cells[columns[1]] if tagged else ""
        except IndexError:
            asked = columns[0] if not -len(cells) <= columns[0] < len(cells) else columns[1]
            raise UserError(
                "data",
                f"{self.where} line {number} has {plural(len(cells), 'column')}, so column {asked} is missing",
                "mend the line, or set data.word_column and data.tag_column",
            ) from None
        if len(cells) != self.first[1] and (tagged or columns[0] != 0):
            raise UserError(
                "data",
                f"{self.where} line {number} has {plural(len(cells), 'column')}, but line {self.first[0]} has {self.first[1]}",
                "mend the line, or set data.on_bad_sample skip",
            )
        for what, value in (("word", word), *([("tag", tag)] if tagged else [])):
            if not value.strip(BLANK):
                raise UserError(
                    "data", f"{self.where} line {number}: the {what} is empty", "fill it, or remove the line"
                )
        return word, tag


def cells_of(line: str) -> list[str]:
    """The cells of a line, separated by tabs if there is one, otherwise by spaces."""
    return [c.strip(" ") for c in line.split("\t")] if "\t" in line else [c for c in line.split(" ") if c]


def check_utf8(line: str, where: str) -> None:
    """Raises UserError for a line with bytes that are not UTF-8."""
    if NO_TEXT.search(line):
        raise UserError("data", f"{where} is not UTF-8", "convert the file, or remove the line")


def first_of_most(lines: list[str], tabs: bool, usual: int | None) -> tuple[int, int]:
    """(number, columns) of the first line with a word that has as many columns as most lines with a word have."""
    widths = {
        number: len(cells_of(line.rstrip("\r\n")))
        for number, line in enumerate(lines, 1)
        if (cells := line.strip(BLANK)) and not is_comment(cells, tabs, usual) and not cells.startswith(DOCUMENT)
    }
    most = max(Counter(widths.values()).items(), key=lambda item: item[1], default=(0, 0))[0]
    return next((item for item in widths.items() if item[1] == most), (0, 0))


def usual_width(lines: list[str]) -> int | None:
    """The number of columns of nearly all lines that spaces separate; None if there is none, or only one column."""
    widths = Counter(len(line.split()) for line in lines if not line.startswith("#"))
    width, count = widths.most_common(1)[0] if widths else (1, 0)
    return width if width > 1 and count * 10 >= 9 * widths.total() else None


def is_comment(line: str, tabs: bool, usual: int | None = None) -> bool:
    """Whether a line before a sentence is a comment, as CoNLL-U has: `# name = value`, or `# …` in a file that `tabs` separate.

    If spaces separate, `# O` is a word with its tag, unless nearly all lines have another number of columns, the `usual` one.
    The document marks of CoNLL-2012 are comments too.
    """
    if line.startswith("#begin document (") or line == "#end document":
        return True
    if usual is not None and line.startswith("# ") and len(line.split()) != usual:
        return True
    return line.startswith("# ") and "\t" not in line and (tabs or re.match(r"# [\w.:-]+ = ", line) is not None)


def is_range(line: str) -> bool:
    """Whether a line of CoNLL-U's ten columns stands for words written as one (`1-2`), or for a word left unwritten (`8.1`)."""
    return re.match(r"\d+[-.]\d+(\t[^\t]*){9}$", line) is not None


def read_lines(path: str, key: str, skip: bool = False) -> list[str]:
    """Reads the lines of a UTF-8 file. Raises UserError if it does not exist, and one that names the first wrong byte; with
    `skip`, `check_utf8` finds the lines with such bytes.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        here = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        raise UserError(key, f"{path} does not exist{nearest(place.name, here)}")
    try:
        with open_text(place, strict=not skip) as file:
            return re.split("\r*\n|\r", file.read())
    except UnicodeDecodeError:
        raise not_utf8(place) from None
    except OSError as error:
        raise UserError("data", f"{place} cannot be read: {error}") from None
