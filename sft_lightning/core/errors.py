"""UserError, the one exception for mistakes that the user can fix, and helpers that word its message."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

TRACEBACK = "Traceback (most recent call last)"
LONGEST = 240  # characters of one word; a path that can be opened is hardly longer


class UserError(ValueError):
    """A mistake in what the user gave. The message is one line: `key: problem; fix`.

    The command line prints it without a traceback and exits with code 2.

    Args:
        key: What to look at, as the user writes it: a key (data.batch_size), an option (--budget), a file, a column.
        problem: What is wrong with the value that was seen.
        fix: What to do, in the imperative. Empty if the problem makes it obvious.
    """

    def __init__(self, key: object, problem: object = None, fix: object = "") -> None:
        if problem is None:  # one text: torch re-raises a data worker's error from its printed traceback
            key, _, problem = last_line(str(key)).partition(": ")
        self.key, self.problem, self.fix = (one_line(str(part)) for part in (key, problem, fix))
        text = f"{self.key}: {self.problem}" if self.problem else self.key
        super().__init__(f"{text}; {self.fix}" if self.fix else text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.problem, self.fix)

    def at(self, key: object) -> "UserError":
        """Returns the same error at another key, the one that the user wrote."""
        return UserError(key, self.problem, self.fix)

    def moved(self, block: str, other: str) -> "UserError":
        """Returns the same error of another block: `data.root` becomes `retention.root`, in the fix too."""
        name = re.compile(rf"\b{block}(?=\.\w)")
        key = re.sub(rf"^{block}(?=\.|$)", other, self.key)
        return UserError(key, self.problem, name.sub(other, self.fix))

    def with_fix(self, more: str) -> "UserError":
        """Returns the same error with one more thing to do."""
        return UserError(self.key, self.problem, f"{self.fix}; {more}" if self.fix else more)


def last_line(text: str) -> str:
    """The message that ends a printed traceback, without the exception's class; any other text as it is."""
    if TRACEBACK not in text:
        return text
    said = [line for line in text.splitlines() if re.match(r"[\w.]+: ", line)]
    return said[-1].partition(": ")[2] if said else text


def one_line(text: str) -> str:
    """Puts text on one line, escapes control characters and shortens long words."""
    return " ".join(map(short, escape_controls(text).split()))


def escape_controls(text: str) -> str:
    """Escapes control characters and undecodable bytes, so that text cannot change the terminal."""
    return "".join(c if c.isprintable() or c.isspace() else repr(c)[1:-1] for c in text)


def short(word: str) -> str:
    """Keeps the beginning and the end of a word that is too long for a message."""
    return word if len(word) <= LONGEST else f"{word[:100]}…{word[-40:]}"


def plainly(text: str) -> str:
    """Replaces Python's spelling of types: `<class 'int'>` is int, NoneType is null."""
    return re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", text).replace("NoneType", "null")


def nearest(name: object, names: Iterable[object]) -> str:
    """Returns ` (did you mean 'X'?)` for the nearest of `names`, or an empty string."""
    by_lower = {str(n).lower(): str(n) for n in names}
    close = get_close_matches(str(name).lower()[:LONGEST], by_lower, n=1, cutoff=0.6)
    return f" (did you mean '{by_lower[close[0]]}'?)" if close else ""
