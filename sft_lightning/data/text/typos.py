"""Typing errors in texts, the same for each sample in each run.

Some of a text's words get one error each. Which words, and which errors, depends on the sample's row number alone, and a higher
severity has the errors of a lower one and more.
"""

import re
from collections.abc import Sequence

import numpy as np

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Expected share of words with an error, for severity 1 to 5"""
SEED = 1606
LEAST = 3
"""Letters of the shortest word that gets an error"""
WORD = re.compile(rf"[^\W\d_]{{{LEAST},}}")
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
"""The keyboard's letters; each row is half a key further right than the one above"""


def neighbours() -> dict[str, str]:
    """The letters beside each letter of the keyboard: in its row, and in the rows above and below."""
    at = {letter: (x + y / 2, y) for y, row in enumerate(ROWS) for x, letter in enumerate(row)}
    near = {
        a: [b for b, (v, w) in at.items() if a != b and abs(x - v) <= 1 and abs(y - w) <= 1] for a, (x, y) in at.items()
    }
    return {letter: "".join(others) for letter, others in near.items()}


NEAR = neighbours()


def swap(word: str, at: int, draw: int) -> str:
    """Two neighbouring letters change places; equal letters become one."""
    at = min(at, len(word) - 2)
    pair = word[at + 1] + word[at] if word[at] != word[at + 1] else word[at]
    return word[:at] + pair + word[at + 2 :]


def omit(word: str, at: int, draw: int) -> str:
    """A letter is missing."""
    return word[:at] + word[at + 1 :]


def double(word: str, at: int, draw: int) -> str:
    """A letter is typed twice."""
    return word[: at + 1] + word[at:]


def slip(word: str, at: int, draw: int) -> str:
    """A neighbouring key is hit; a letter that is not on the keyboard is typed twice."""
    letter = word[at]
    near = NEAR.get(letter.lower())
    if near is None:
        return double(word, at, draw)
    other = near[draw % len(near)]
    return word[:at] + (other.upper() if letter.isupper() else other) + word[at + 1 :]


ERRORS = (swap, omit, double, slip)


def typos(texts: Sequence[str], severity: int, row: int) -> list[str]:
    """The texts of one sample with typing errors; spaces, digits and punctuation stay, and no word disappears.

    Args:
        texts: A text, both of a pair, or the words of a sentence.
        severity: From 1 to 5.
        row: The sample's row number.
    """
    generator, share = np.random.default_rng((SEED, row)), SHARES[severity - 1]

    def typed(match: re.Match[str]) -> str:
        word, chance = match[0], generator.random()  # drawn for each word, so that one word's errors change no other's
        kind, at, draw = (int(number) for number in generator.integers(0, (len(ERRORS), len(match[0]), 1 << 16)))
        return ERRORS[kind](word, at, draw) if chance < share else word

    return [WORD.sub(typed, text) for text in texts]
