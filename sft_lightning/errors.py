"""The one exception for what is the user's to mend, and the words to say it in."""

from collections.abc import Iterable
from difflib import get_close_matches


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
        super().__init__(" ".join(text.split()))


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'X'?` for the nearest of `names`, or an empty string."""
    by_lower = {n.lower(): n for n in names}
    close = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""
