"""Words of messages and reports."""

from collections.abc import Sequence


def plural(count: int, noun: str, ending: str = "s") -> str:
    """A count with its noun: `1 rank`, `2,000 ranks`."""
    return f"{count:,} {noun}{'' if count == 1 else ending}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
