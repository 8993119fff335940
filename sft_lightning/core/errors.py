"""The one exception for what is the user's to mend, and the words to say it in."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 240  # characters of one word, of which no path that can be opened has many more


class UserError(ValueError):
    """Something the user gave cannot work. The message is one line: what, where, what to do.

    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: object) -> None:
        text = str(message)
        if (
            "Traceback (most recent call last)" in text
        ):  # torch re-raises a data worker's error with its traceback inside
            text = text.rpartition("UserError: ")[2]
        super().__init__(" ".join(map(short, escape_controls(text).split())))


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
