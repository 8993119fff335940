"""What the user asks of a path between weights: by `path`, or by an arm of a study. It imports no torch."""

from collections.abc import Iterable
from dataclasses import dataclass

from sft_lightning.core.errors import UserError

HOW = ("wise-ft", "lines")
"""Ways from the pretrained weights to the tuned ones; ways.py has their formulas"""
REESTIMATE, INTERPOLATE = "reestimate", "interpolate"
BATCHNORM = (REESTIMATE, INTERPOLATE)
"""What running statistics between the ends are"""
STEPS = 10
"""Intervals between 0 and 1, by default"""


@dataclass(frozen=True)
class Asked:
    """The points of a path, and how one of them is chosen."""

    how: str
    """A name of HOW"""
    alphas: tuple[float, ...]
    """Ascending, each in [0, 1]"""
    margin: float | None = None
    """How much worse than the best the target metric of the chosen point may be; None chooses the best"""
    batchnorm: str | None = None
    """A name of BATCHNORM; None for the first where statistics moved"""
    by: str | None = None
    """The target's metric that chooses; None for that of `select_by`, else the task's first"""
    kept: str | None = None
    """The metric of what is kept; None for the source task's first, else agreement"""

    @property
    def options(self) -> list[str]:
        """The options of `path` that ask for this."""
        found = ["--how", self.how, "--alphas", ",".join(map(repr, self.alphas))]
        for name in ("margin", "batchnorm", "by", "kept"):
            if (value := getattr(self, name)) is not None:
                found += [f"--{name}", str(value)]
        return found


def alphas_of(given: Iterable[float | str] | None, key: str = "--alphas") -> tuple[float, ...]:
    """The points to measure, ascending; the default ones for None. Raises UserError for anything but numbers from 0 to 1."""
    if given is None:
        return tuple(i / STEPS for i in range(STEPS + 1))
    listed = list(given)
    try:
        found = sorted({float(part) for part in listed if not isinstance(part, bool)})
    except (TypeError, ValueError):
        found = []
    if not found or any(isinstance(part, bool) for part in listed) or not all(0 <= alpha <= 1 for alpha in found):
        raise UserError(key, f"must be numbers from 0 to 1, got '{', '.join(map(str, listed))}'", "write 0,0.5,1")
    return tuple(found)


def margin_of(given: object, key: str = "--margin") -> float | None:
    """A margin from 0; None stays None."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < float("inf"):
        raise UserError(key, f"must be a number from 0, got {given}")
    return float(given)
