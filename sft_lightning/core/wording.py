"""Words of messages and reports."""


def plural(count: int, noun: str, ending: str = "s") -> str:
    """A count with its noun: `1 rank`, `2,000 ranks`."""
    return f"{count:,} {noun}{'' if count == 1 else ending}"
