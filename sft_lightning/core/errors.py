"""The one exception for what is the user's to mend, and the words to say it in."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 240  # characters of one word, of which no path that can be opened has many more


class UserError(ValueError):
    """Something that the user gave cannot work. The message is one line: `key: problem; fix`.

    The command line prints it without a traceback and exits with code 2.

    Args:
        key: What to look at, as the user writes it: a key (data.batch_size), an option (--budget), a file, a column.
        problem: What is wrong with the value that was seen.
        fix: What to do, in the imperative. Empty where the problem says it.
    """

    def __init__(self, key: object, problem: object = "", fix: object = "") -> None:
        if not problem:  # torch passes an error on as one text, with a data worker's traceback in it
            key, _, problem = str(key).rpartition("UserError: ")[2].partition(": ")
        self.key, self.problem, self.fix = (one_line(str(part)) for part in (key, problem, fix))
        super().__init__(f"{self.key}: {self.problem}" + (f"; {self.fix}" if self.fix else ""))

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, str]]:
        return type(self), (self.key, self.problem, self.fix)

    def at(self, key: object) -> "UserError":
        """The same error at the key under which the user gave the value."""
        return UserError(key, self.problem, self.fix)

    def with_fix(self, more: str) -> "UserError":
        """The same error with more to do about it."""
        return UserError(self.key, self.problem, f"{self.fix}; {more}" if self.fix else more)


def one_line(text: str) -> str:
    """Text on one line that leaves a terminal as it is, its long words shortened."""
    return " ".join(map(short, escape_controls(text).split()))


def escape_controls(text: str) -> str:
    """Text that leaves a terminal as it is: control characters, and bytes that are none, are written out."""
    return "".join(c if c.isprintable() or c.isspace() else repr(c)[1:-1] for c in text)


def short(word: str) -> str:
    """The beginning and the end of what is too long to read, and would bury the rest of a message."""
    return word if len(word) <= LONGEST else f"{word[:100]}…{word[-40:]}"


def plainly(text: str) -> str:
    """Without Python's way to write types."""
    return re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", text).replace("NoneType", "null")


def nearest(name: object, names: Iterable[object]) -> str:
    """`; did you mean 'X'?` for the nearest of `names`, or an empty string."""
    by_lower = {str(n).lower(): str(n) for n in names}
    close = get_close_matches(str(name).lower()[:LONGEST], by_lower, n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""
