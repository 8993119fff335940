"""Checks arguments against the values that their annotations allow.

`Annotated[int, Range(1)]` is an int for the command line's parser and for type checkers; `check_arguments` reads the range.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Real
from types import FrameType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from lightning.pytorch.utilities.parsing import collect_init_args

from sft_lightning.core.errors import UserError, nearest


@dataclass(frozen=True, repr=False)
class Range:
    """Numbers from `least` to `most` (None: no upper limit), both included unless `open_below` or `open_above`."""

    least: float
    most: float | None = None
    open_below: bool = False
    open_above: bool = False

    def __contains__(self, value: float) -> bool:
        high_enough = value > self.least if self.open_below else value >= self.least
        if self.most is None:
            return high_enough
        return high_enough and (value < self.most if self.open_above else value <= self.most)

    def __repr__(self) -> str:
        if self.most is None:
            return f"{'more than' if self.open_below else 'at least'} {self.least}"
        if not (self.open_below or self.open_above):
            return f"{self.least} to {self.most}"
        begin, end = "(" if self.open_below else "[", ")" if self.open_above else "]"
        return f"in {begin}{self.least}, {self.most}{end}"


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Share = Annotated[float, Range(0, 1, open_below=True)]
ProperShare = Annotated[float, Range(0, 1, open_below=True, open_above=True)]


def check_arguments(constructor: Callable[..., Any], values: Mapping[str, Any], where: str = "data") -> None:
    """Raises UserError for the first value that the annotations of `constructor` do not allow: by `Range` or by `Literal`.

    Args:
        constructor: A function with annotated parameters.
        values: Arguments by name, such as `locals()` in the constructor; None is not checked.
        where: Prefix of the key in messages.
    """
    for name, annotation in annotations(constructor).items():
        value = values.get(name)
        if value is not None and (problem := problem_of(value, annotation)):
            raise UserError(f"{where}.{name}", problem)


@cache
def annotations(constructor: Callable[..., Any]) -> dict[str, Any]:
    """Parameters with their annotations, in order."""
    return get_type_hints(constructor, include_extras=True)


def problem_of(value: Any, annotation: Any) -> str:
    """Says what is wrong with a value; empty if nothing is, or if the annotation sets no limits."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        allowed = next((a for a in inner[1:] if isinstance(a, Range)), None)
        number = isinstance(value, Real) and not isinstance(value, bool)
        return "" if allowed is None or (number and value in allowed) else f"must be {allowed!r}, got {value!r:.80}"
    if origin is Literal:
        problem = f"unknown value {value!r:.80}{nearest(value, inner)}; use one of {', '.join(map(str, inner))}"
        return "" if value in inner else problem
    if origin is list:
        return next((problem for one in value if (problem := problem_of(one, inner[0]))), "")
    limited = [part for part in inner if get_origin(part) in (Annotated, Literal, list)]
    if len(limited) != 1 or len(inner) > 2:  # `X | None` alone
        return ""
    return problem_of(value, limited[0])


def given_to(frame: FrameType | None, cls: type) -> dict[str, Any]:
    """Returns the arguments that an object's constructors were given; those of the most derived class win.

    Args:
        frame: Frame of the constructor that calls this.
        cls: The object's class.
    """
    if frame is None:
        return {}
    levels = collect_init_args(frame, [], classes=(cls,))
    return {name: value for level in levels for name, value in level.items()}
