"""Waits for another thread or process."""

import time
from collections.abc import Callable


def until(true: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Waits until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"after {seconds} s it is still not true that {what}"
        time.sleep(0.01)
