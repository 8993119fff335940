"""Universal Dependencies: words with parts of speech or other tags, from CoNLL-U files."""

from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.text.sentences import BLANK, Sentences, check_utf8, read_lines
from sft_lightning.data.text.split_words import SplitWords
from sft_lightning.data.text.tagged import Scheme, TaggedData
from sft_lightning.tasks.schemes import OUTSIDE

COLUMNS = {"upos": 3, "xpos": 4, "deprel": 7}
KEYED = {"feats": 5, "misc": 9}
"""Columns of NAME=VALUE pairs"""
RANGES = "a range of words written as one (1-2) is left out, and its words are kept"
EMPTY = "an empty node (8.1) is left out"


class CoNLLU(TaggedData):
    """Words with one tag each from CoNLL-U files, as Universal Dependencies has them.

    Words are the syntactic ones. Ranges of words that are written as one, and empty nodes, are left out and counted.

    Args:
        train: File with the training sentences (.conllu).
        val: File with the validation sentences; default a share of the training sentences.
        test: File with the test sentences.
        predict: File to predict on; it needs no tags, and predicting needs no training data. It may also hold texts, one a
            line (.txt) or in a table (.csv, .tsv, .json, .jsonl, .parquet).
        tags: Which tags: upos, xpos, deprel, or a key of another column, such as misc:NER or feats:Number. A word without
            that key has the tag O.
        labels: All tags in order; default those of the training sentences, O first, then sorted.
        scheme: Scheme of the tags of entities; default the one recognised.
        text_column: Column of the texts to predict on; default text.
        split_words: Where texts to predict on are split into words: at white space and punctuation, or at white space alone;
            default punctuation.
        max_length: Most tokens of a sentence, special ones included; words beyond it are counted, and are in no loss and no
            metric; default the network's.
        group_by_length: Make batches of sentences of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits. `shots_per_class` counts sentences with each tag or type of entity.
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        tags: str = "upos",
        labels: list[str] | None = None,
        scheme: Scheme | None = None,
        text_column: str | None = None,
        split_words: SplitWords | None = None,
        max_length: int | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            train, val, test, predict, labels, scheme, text_column, split_words, max_length, group_by_length, **kwargs
        )
        column, _, key = tags.partition(":")
        if tags not in COLUMNS and (column not in KEYED or not key):
            raise UserError(
                "data.tags",
                f"'{tags}' is unknown{nearest(tags, COLUMNS)}",
                f"use one of {', '.join(COLUMNS)}, or misc:KEY or feats:KEY",
            )
        self.tags = tags

    def read(self, split: str, file: str, tagged: bool = True) -> Sentences:
        """Reads a file; with `on_bad_sample: skip`, a line that cannot be read leaves its sentence out."""
        return read_conllu(file, f"data.{split}", self.tags if tagged else None, self.skips)


def read_conllu(path: str, key: str, tags: str | None, skip: bool = False) -> Sentences:
    """Reads the words of a file and the tags that `tags` names; no tags if it is None."""
    found, inside, lacking, last = Sentences(path, skip), False, 0, 0
    for number, line in enumerate(read_lines(path, key, skip), 1):
        if not line.strip(BLANK):
            inside = False
            continue
        if line.startswith("#"):
            continue
        if not inside:
            found.add([], [], number)
            inside, last = True, 0
        row = len(found) - 1
        try:
            check_utf8(line, f"{path} line {number}")
            cells = cells_of(line, f"{path} line {number}")
            if not cells[0].isdecimal():
                found.notes.add(RANGES if "-" in cells[0] else EMPTY, f"{path} line {number}")
                continue
            if int(cells[0]) <= last:
                problem = (
                    f"{path} line {number} has the ID {cells[0]} after {last}, without a blank line between sentences"
                )
                raise UserError("data", problem, "add the blank line, or number the words")
            last = int(cells[0])
            tag = tag_of(cells, tags) if tags is not None else ""
        except UserError as error:
            found.refuse(row, error)
            continue
        if row in (found.bad or {}):
            continue
        lacking += tag is None
        found.words[row].append(cells[1])
        found.tags[row].append(OUTSIDE if tag is None else tag)
    for row in found.good():
        if not found.words[row]:
            found.refuse(row, UserError("data", f"{found.name(row)}: the sentence has no words", "remove it"))
    if not found.words:
        raise UserError(key, f"{path} has no sentences", "use another file")
    words = sum(len(found.words[row]) for row in found.good())
    if lacking and lacking == words:
        raise UserError("data.tags", f"{path} has no word with {tags}", "name another column")
    if lacking:
        found.notes.add(f"words without {tags} have the tag O: {lacking:,} of {words:,}", path)
    return found


def cells_of(line: str, where: str) -> list[str]:
    """The ten cells of a line. Raises UserError for another number, for an ID that is not one, and for an empty word."""
    cells = line.rstrip("\r\n").split("\t")
    if len(cells) != 10:
        raise UserError(
            "data", f"{where} has {plural(len(cells), 'column')} instead of CoNLL-U's 10", "mend it, or use CoNLL"
        )
    if not cells[0].replace("-", "").replace(".", "").isdecimal():
        raise UserError("data", f"{where} has the ID {cells[0]!r:.20}, not a number", "mend it")
    if not cells[1].strip(BLANK):
        raise UserError("data", f"{where}: the word is empty", "fill it, or remove the line")
    return cells


def tag_of(cells: list[str], tags: str) -> str | None:
    """A word's tag; None if it does not have the key that `tags` names, or if the cell says `_`."""
    if tags in COLUMNS:
        tag = cells[COLUMNS[tags]].strip()
        return tag if tag not in ("", "_") else None
    column, _, key = tags.partition(":")
    pairs = (pair.partition("=") for pair in cells[KEYED[column]].split("|"))
    return next((value.strip() for name, _, value in pairs if name == key and value.strip()), None)
