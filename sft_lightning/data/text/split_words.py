"""Splits a text into words, and keeps the place of each word in the text."""

import re
from typing import Literal
from unicodedata import category

from sft_lightning.data.text.sentences import Span

SplitWords = Literal["punctuation", "whitespace"]
URL = re.compile(r"(?:https?://|www\.)\S*[\w/]", re.IGNORECASE)
JOINS_WORDS, JOINS_DIGITS = "-'’.&·", ",:/"
"""Marks that stay within a word between two letters or digits, and those that do so between two digits"""


def split_words(text: str, how: SplitWords = "punctuation") -> list[Span]:
    """The words' first character and the one after their last, in order; no word is empty or holds white space.

    'whitespace' splits at white space and control characters alone. 'punctuation' also makes each punctuation mark and
    symbol a word, but for one between letters or digits (`don't`, `3,000`), a `@` or `#` before a word, and those of a web
    address. Each Chinese character is a word of its own.
    """
    found: list[Span] = []
    for chunk in re.finditer(r"[^\s\x00-\x1f\x7f-\x9f]+", text):
        start, end = chunk.span()
        if how == "whitespace":
            found.append((start, end))
            continue
        while start < end:
            stop = _end_of_word(text, start, end)
            found.append((start, stop))
            start = stop
    return found


def _end_of_word(text: str, start: int, end: int) -> int:
    """The character after the word that begins at `start`, in a text without white space up to `end`."""
    if (url := URL.match(text, start, end)) is not None:
        return url.end()
    at = start
    if text[at] in "@#" and at + 1 < end and _is_letter(text[at + 1]):
        at += 1
    if not _is_letter(text[at]):
        at += 1
        while at < end and category(text[at])[0] in "MC":  # an accent, or a variant of a symbol
            at += 1
        return at
    if _is_chinese(text[at]):
        return at + 1
    while at < end and not _is_chinese(text[at]):
        if _is_letter(text[at]):
            at += 1
            continue
        before, after = text[at - 1], text[at + 1] if at + 1 < end else " "
        joined = text[at] in JOINS_WORDS and _is_letter(after) and not _is_chinese(after)
        joined |= text[at] in JOINS_DIGITS and before.isdigit() and after.isdigit()
        if not joined:
            break
        at += 1
    return at


def _is_letter(character: str) -> bool:
    """Whether a character is a letter, digit, accent, underscore, or an invisible one such as a joiner."""
    return character == "_" or category(character)[0] in "LNM" or category(character) == "Cf"


def _is_chinese(character: str) -> bool:
    return (
        "\u4e00" <= character <= "\u9fff"
        or "\u3400" <= character <= "\u4dbf"
        or "\U00020000" <= character <= "\U0003ffff"
    )
