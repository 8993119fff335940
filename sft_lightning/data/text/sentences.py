"""Reads sentences from files in columns (CoNLL): one word a line, a blank line after each sentence."""

import re
from itertools import pairwise
from pathlib import Path

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.utf8 import not_utf8, open_text
from sft_lightning.tasks.token_classification import OUTSIDE

BLANK = " \t\r\n"  # characters of lines between sentences; a word may be another space, such as U+00A0
DOCUMENT = "-DOCSTART-"
COMMENT, RANGE = "a comment is left out", "a range or an empty node (1-2, 8.1) is left out"


class Sentences:
    """Reads a file's sentences: words, tags, the line on which each begins, and notes of lines left out.

    Args:
        path: The file.
        key: The option that names it, for messages.
        columns: Which columns hold word and tag, from 0; negative from the right.
        tagged: Whether there are tags to read.
    """

    def __init__(self, path: str, key: str, columns: tuple[int, int], tagged: bool = True) -> None:
        self.where = path
        self.words: list[list[str]] = []
        self.tags: list[list[str]] = []
        self.lines: list[int] = []
        self.notes = Notes()
        place, inside = Path(path).expanduser(), False
        if not place.is_file():
            here = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
            raise UserError(key, f"{path} does not exist{nearest(place.name, here)}")
        lines = read_lines(place)
        full = [line for line in lines if line.strip(BLANK)]
        tabs = 2 * sum("\t" in line.strip(BLANK) for line in full) > len(full)
        for number, line in enumerate(lines, 1):
            cells = line.strip(BLANK)
            if not cells or (not inside and cells.replace("\t", " ").split(" ")[0] == DOCUMENT):
                inside = False
            elif not inside and is_comment(cells, tabs):
                self.notes.add(COMMENT, f"{path} line {number}")
            elif is_range(cells):
                self.notes.add(RANGE, f"{path} line {number}")
            else:
                word, tag = self._cells(line.rstrip("\r\n"), number, columns, tagged)
                if not inside:
                    self.lines.append(number)
                    self.words.append([])
                    self.tags.append([])
                    inside = True
                self.words[-1].append(word)
                self.tags[-1].append(tag)
        if not self.words:
            raise UserError(key, f"{path} has no sentences", "use another file")
        self._note_lone_insides()

    @classmethod
    def of(cls, words: list[list[str]], where: str) -> "Sentences":
        """Sentences in memory, without tags."""
        made = cls.__new__(cls)
        made.where, made.words, made.notes = where, words, Notes()
        made.tags, made.lines = [[""] * len(w) for w in words], list(range(1, len(words) + 1))
        return made

    def _cells(self, line: str, number: int, columns: tuple[int, int], tagged: bool) -> tuple[str, str]:
        cells = [c.strip(" ") for c in line.split("\t")] if "\t" in line else [c for c in line.split(" ") if c]
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
        for what, value in (("word", word), *([("tag", tag)] if tagged else [])):
            if not value.strip(BLANK):
                raise UserError(
                    "data", f"{self.where} line {number}: the {what} is empty", "fill it, or remove the line"
                )
        return word, tag

    def _note_lone_insides(self) -> None:
        """Notes the I- tags without an entity of their type before them."""
        for row, tags in enumerate(self.tags):
            for before, tag in pairwise([OUTSIDE, *tags]):
                if tag.startswith("I-") and before[2:] != tag[2:]:
                    self.notes.add(
                        f"the tag {tag} has no tag of its type before it, so it begins an entity", self.name(row)
                    )

    def name(self, row: int) -> str:
        """`train.conll line 7`."""
        return f"{self.where} line {self.lines[row]}"


def is_comment(line: str, tabs: bool) -> bool:
    """Whether a line before a sentence is a comment, as CoNLL-U has: `# name = value`, or `# …` in a file that `tabs` separate.

    If spaces separate, `# O` is a word with its tag.
    """
    return line.startswith("# ") and "\t" not in line and (tabs or re.match(r"# [\w.:-]+ = ", line) is not None)


def is_range(line: str) -> bool:
    """Whether a line of CoNLL-U's ten columns stands for words written as one (`1-2`), or for a word left unwritten (`8.1`)."""
    return re.match(r"\d+[-.]\d+(\t[^\t]*){9}$", line) is not None


def read_lines(path: Path) -> list[str]:
    """Reads the lines of a UTF-8 file. Raises UserError that names the first wrong byte."""
    try:
        with open_text(path, strict=True) as file:
            return re.split("\r*\n|\r", file.read())
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except OSError as error:
        raise UserError("data", f"{path} cannot be read: {error}") from None
