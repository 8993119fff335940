"""What a constructor was given, for a config that makes the same object."""

from types import FrameType
from typing import Any

from lightning.pytorch.utilities.parsing import collect_init_args


def arguments_of(frame: FrameType | None, cls: type) -> dict[str, Any]:
    """The arguments of all constructors that are at work on one object, the most derived class's first choice.

    Args:
        frame: Of the constructor that asks.
        cls: The object's class.
    """
    if frame is None:
        return {}
    levels = collect_init_args(frame, [], classes=(cls,))
    return {name: value for level in levels for name, value in level.items()}
