"""What several runs in one process share, so that it is computed once: off, but in the workers of a study.

Nothing here changes a bit of any run: what is kept is found again by all that it depends on.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class LRUCache:
    """Values by key, the least recently used dropped when they take more than `room` together."""

    def __init__(self, room: int) -> None:
        self.room, self.taken, self.on = room, 0, False
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """The value of `key`, made where it is not held; `size` says what it takes."""
        if not self.on:
            return make()
        if key in self._held:
            self._held.move_to_end(key)
            held: T = self._held[key][0]
            return held
        value = make()
        taken = size(value)
        if taken <= self.room:
            self._held[key] = (value, taken)
            self.taken += taken
            while self.taken > self.room:
                self.taken -= self._held.popitem(last=False)[1][1]
        return value

    def clear(self) -> None:
        self._held.clear()
        self.taken = 0


TEACHER = LRUCache(512 << 20)
"""What a teacher said of a batch: CPU alone, where looking at a batch costs next to nothing."""
DATA = LRUCache(4)
"""Samples that were read, decoded or tokenised: the last few data sets, each counted as one."""
_taken: set[Hashable] = set()


def begin() -> None:
    """From here on, runs of this process share."""
    TEACHER.on = DATA.on = True


def end() -> None:
    """Each run by itself again."""
    for kept in (TEACHER, DATA):
        kept.on = False
        kept.clear()


def next_run() -> None:
    """What a run took is free for the next."""
    _taken.clear()


def samples(key: Hashable, load: Callable[[], T]) -> T:
    """Samples of `key`, loaded where none are held. Two data modules of one run never hold the same: each fits its own to
    the network and to its own augmentation.
    """
    if not DATA.on or key in _taken:
        return load()
    _taken.add(key)
    return DATA.get(key, load, lambda _: 1)
