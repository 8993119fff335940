"""Counts what a reader left out or converted: how often each kind occurred, and where first."""

from collections.abc import Iterable


class Notes:
    """Counts of notes by their text, in the order of their first occurrence."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, what: str, where: str) -> None:
        """Counts `what` once more; `where` names the row."""
        count, first = self._found.get(what, (0, where))
        self._found[what] = (count + 1, first)

    def counts(self) -> dict[str, int]:
        """How often each note occurred."""
        return {what: count for what, (count, _) in self._found.items()}

    def lines(self) -> list[str]:
        """`role gpt is read as assistant (12 times, first in train.jsonl line 1)`, one for each kind."""
        return [
            f"{what} ({count:,} time{'s' if count > 1 else ''}, first in {first})"
            for what, (count, first) in self._found.items()
        ]


def together(notes: Iterable[Notes]) -> list[str]:
    """The lines of several `Notes`, each kind once."""
    joint = Notes()
    for one in notes:
        for what, (count, where) in one._found.items():
            before, first = joint._found.get(what, (0, where))
            joint._found[what] = (before + count, first)
    return joint.lines()
