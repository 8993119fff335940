"""Reads a user's own texts to predict on, and says which characters of them were tagged."""

from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.text.files import FORMATS, Table, check_text, read_table
from sft_lightning.data.text.sentences import BLANK, Sentences, check_utf8, read_lines
from sft_lightning.data.text.split_words import SplitWords, split_words
from sft_lightning.data.text.utf8 import open_text
from sft_lightning.tasks.schemes import OUTSIDE, entities, is_prefixed

KEY = "data.predict"
LOOKED_AT = 10_000  # lines
MANY = 10  # lines: so many texts hardly have the same number of words by chance
AS_COLUMNS = "a .txt file is read as one word a line; write texts into a column text of a .csv or .jsonl file"


def holds_texts(path: str) -> bool:
    """Whether a file holds texts and not tagged words: it is a table, or a .txt file whose lines have no columns.

    Lines have columns if most have a tab, if each is one word, or if all have the same number of words and there are many, or
    their last words are tags of entities.
    """
    suffix = Path(path).suffix.lower()
    if suffix != ".txt":
        return suffix in FORMATS
    full = [line.strip(BLANK) for line in first_lines(path, KEY) if line.strip(BLANK)]
    if not full or 2 * sum("\t" in line for line in full) > len(full):
        return not full
    counts = {len(line.split()) for line in full}
    tagged = all(is_prefixed(last) or last == OUTSIDE for last in (line.split()[-1] for line in full))
    return len(counts) > 1 or (counts != {1} and not tagged and len(full) < MANY)


def first_lines(path: str, key: str) -> list[str]:
    """The first lines of a file, enough to tell its format. Raises UserError if it does not exist."""
    place = Path(path).expanduser()
    if not place.is_file():
        return read_lines(path, key)  # which names the nearest
    with open_text(place, strict=False) as file:
        return list(islice(file, LOOKED_AT))


def read_texts(path: str, column: str | None, how: SplitWords, skip: bool) -> Sentences:
    """The texts of a .txt file (one a line) or of a table's column, split into words. A column `tokens` of lists is taken
    as it is. Raises UserError for a text without words, or leaves it out with `skip`.
    """
    if Path(path).suffix.lower() == ".txt":
        return read_text_lines(path, column, how, skip)
    table = read_table(path, KEY, skip)
    found = Sentences(path, skip)
    found.unit = "line" if table.lines else "row"
    name = column_of(table, column)
    held = table.column(name, "data.text_column")
    words_given = any(isinstance(value, list) for value in held)
    if not words_given:
        found.texts = []
    for row, value in enumerate(held):
        found.add([], [], table.lines[row] if table.lines else row)
        try:
            if (table.bad or {}).get(row):
                raise UserError("data", f"{found.name(row)}: {(table.bad or {})[row]}")
            if words_given:
                found.words[row] = check_words(value, name, found.name(row))
            else:
                check_text(value, f"column '{name}'", found.name(row), "data.text_column")
        except UserError as error:
            found.refuse(row, error)
            value = ""
        if not words_given:
            add_words(found, row, value, how)
    return found


def read_text_lines(path: str, column: str | None, how: SplitWords, skip: bool) -> Sentences:
    """The lines of a .txt file as texts; blank lines are left out and counted."""
    if column is not None:
        raise UserError("data.text_column", f"has no effect on {path}, whose lines are texts", "leave it null")
    found = Sentences(path, skip)
    found.texts = []
    lines = read_lines(path, KEY, skip)
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.add([], [], number)
            try:
                check_utf8(line, found.name(len(found) - 1))
            except UserError as error:
                found.refuse(len(found) - 1, error)
                line = ""
            add_words(found, len(found) - 1, line, how)
        elif number < len(lines):
            found.notes.add("a blank line is left out", f"{path} line {number}")
    if not len(found):
        raise UserError(KEY, f"{path} has no texts", "use another file")
    return found


def how_split(how: SplitWords) -> str:
    """A note on how texts become words."""
    at = "white space and punctuation" if how == "punctuation" else "white space alone"
    return f"texts are split into words at {at} (data.split_words says otherwise)"


def add_words(found: Sentences, row: int, text: str, how: SplitWords) -> None:
    """Sets the words of a text and their places."""
    spans = split_words(text, how)
    assert found.texts is not None
    found.texts.append(text)
    found.spans.append(spans)
    found.words[row] = [text[start:end] for start, end in spans] or ["-"]
    if not spans and row not in (found.bad or {}):
        found.refuse(
            row, UserError("data", f"{found.name(row)} has no words", "remove it, or set data.on_bad_sample skip")
        )
    found.tags[row] = [""] * len(found.words[row])


def column_of(table: Table, column: str | None) -> str:
    """The column with texts: the one named, else `text`, else `tokens`, else the only column of texts."""
    if column is not None:
        table.column(column, "data.text_column")
        return column
    named = [name for name in ("text", "tokens") if name in table.columns]
    texts = [name for name, held in table.columns.items() if any(isinstance(v, str) for v in held)]
    if not named and len(texts) != 1:
        problem = f"{table.where} has no column 'text', only {', '.join(table.columns)}{nearest('text', table.columns)}"
        raise UserError(KEY, problem, "set data.text_column")
    return (named or texts)[0]


def check_words(value: Any, column: str, row: str) -> list[str]:
    """A list of words. Raises UserError unless it is one, with a text for each word."""
    if not isinstance(value, list):
        raise UserError("data", f"{row}: column '{column}' holds {value!r:.40}, not a list of words", "write a list")
    if not value:
        raise UserError("data", f"{row}: column '{column}' has no words", "fill it or remove the row")
    for at, word in enumerate(value):
        if not isinstance(word, str):
            raise UserError(
                "data", f"{row}: word {at} of column '{column}' is {word!r:.40}, not a text", "write a text"
            )
        another_space = bool(word.strip(BLANK))  # such as U+00A0, which is a word
        check_text(word, f"word {at} of column '{column}'", row, "data", allow_empty=another_space)
    return value


# ---- predictions ----


def located(text: str, spans: list[tuple[int, int]], prediction: dict[str, Any], in_scheme: bool) -> dict[str, Any]:
    """A prediction's tags by place in the text: its words and, if tags have a scheme, its entities with their first character,
    the one after their last, and their probability, the product of those of their words' tags. `untagged` are the places
    of words beyond max_length.
    """
    tags, probabilities = prediction["tags"], prediction["probabilities"]
    kept = spans[: len(tags)]
    found: dict[str, Any] = {
        "text": text,
        "words": [text[start:end] for start, end in kept],
        "spans": [list(span) for span in kept],
    }
    if in_scheme:
        found["entities"] = [
            {
                "type": kind,
                "start": kept[first][0],
                "end": kept[after - 1][1],
                "text": text[kept[first][0] : kept[after - 1][1]],
                "probability": round(prod(probabilities[first:after]), 6),
            }
            for first, after, kind in entities(tags)
        ]
    if len(tags) < len(spans):
        found["untagged"] = [[*span] for span in spans[len(tags) :]]
    return {**prediction, **found}
