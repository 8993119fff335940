"""Caches that several runs in one process share: teacher outputs, data sets, parsed configs. Only studies' workers use them.

The caches change no bit of any run: each key holds everything that the value depends on.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class LRUCache:
    """Holds values by key and drops the least recently used when together they take more than `room`."""

    def __init__(self, room: int) -> None:
        self.room, self.taken, self.on = room, 0, False
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """Returns the value of `key`, made if it is not cached; `size` computes how much room it takes."""
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
"""Teacher outputs per batch, in bytes. Used on the CPU only, where comparing a batch with the key costs little."""
DATA = LRUCache(4)
"""Samples as read, decoded or tokenised. Each data set takes 1 of the room."""
CONFIGS = LRUCache(64)
"""Parsed configs by structure. Each takes 1 of the room."""
_taken: set[Hashable] = set()


def begin() -> None:
    """Turns the caches on for the next runs of this process."""
    TEACHER.on = DATA.on = CONFIGS.on = True


def end() -> None:
    """Turns the caches off and empties them."""
    for kept in (TEACHER, DATA, CONFIGS):
        kept.on = False
        kept.clear()


def next_run() -> None:
    """Starts a new run: it may take the data sets that the previous run used."""
    _taken.clear()


def samples(key: Hashable, load: Callable[[], T]) -> T:
    """Returns the samples of `key`, loaded if they are not cached.

    Two data modules of one run never share samples: each adapts its own to the network and to its augmentation.
    """
    if not DATA.on or key in _taken:
        return load()
    _taken.add(key)
    return DATA.get(key, load, lambda _: 1)
