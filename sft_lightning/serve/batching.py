"""Micro-batching: requests wait in a queue, and one worker thread answers them in batches."""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from sft_lightning.core.errors import UserError, one_line
from sft_lightning.serve.answering import Answer
from sft_lightning.serve.items import Item


class Answers(Protocol):
    """What the worker needs of a model."""

    def warm(self) -> None: ...

    def answer(self, items: Sequence[Item], source: bool = True) -> list[Answer | UserError]: ...


class QueueFull(Exception):
    """The queue has no room for a request."""


@dataclass
class Waiting:
    """One item in the queue."""

    item: Item
    source: bool
    done: "Future[Answer]" = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """A queue, and the thread that empties it.

    A batch is closed when it has `most` items, or when its first item has waited `wait_s` seconds.

    Args:
        make: Loads the model, in the worker thread. A UserError ends the thread.
        most: Most items of a batch.
        wait_s: Seconds that an item waits for others.
        room: Most items that wait.
        noted: Called with the size of each batch.
        ended: Called at the end of the thread, after an error too.
    """

    def __init__(
        self,
        make: Callable[[], Answers],
        most: int = 32,
        wait_s: float = 0.005,
        room: int = 1024,
        noted: Callable[[int], None] = lambda size: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.make, self.most, self.wait_s, self.room, self.noted, self.ended = make, most, wait_s, room, noted, ended
        self.model: Answers | None = None
        """The model, once it has answered a first sample"""
        self.error: BaseException | None = None
        """Why the model could not be loaded"""
        self.settled = threading.Event()
        """Set once the model is loaded, or cannot be"""
        self._queue: deque[Waiting] = deque()
        self._reported = False
        self._changed, self._stopping = threading.Condition(), False
        self._thread = threading.Thread(target=self._work, name="serve", daemon=True)

    def start(self) -> None:
        """Starts the worker, which loads the model first."""
        self._thread.start()

    def stop(self) -> None:
        """Answers what waits, and ends the worker."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Number of items in the queue."""
        return len(self._queue)

    def submit(self, items: Sequence[Item], source: bool) -> list["Future[Answer]"]:
        """Puts all items of a request into the queue, or none. Raises QueueFull."""
        made = [Waiting(item, source) for item in items]
        with self._changed:
            if self._stopping or len(self._queue) + len(made) > self.room:
                raise QueueFull
            self._queue.extend(made)
            self._changed.notify_all()
        return [one.done for one in made]

    def _work(self) -> None:
        try:
            model = self.make()
            model.warm()
            self.model = model
            self.settled.set()
            while batch := self._next():
                self.noted(len(batch))
                self._answer(model, batch)
        except BaseException as error:
            self.error = error
        finally:
            self.settled.set()
            self.ended()

    def _next(self) -> list[Waiting]:
        """The next batch, of at least one item; empty at the end."""
        with self._changed:
            while True:
                while not self._queue and not self._stopping:
                    self._changed.wait()
                if not self._queue:
                    return []
                closes = self._queue[0].since + self.wait_s
                while len(self._queue) < self.most and not self._stopping and (left := closes - time.monotonic()) > 0:
                    self._changed.wait(left)
                batch: list[Waiting] = []
                while self._queue and len(batch) < self.most:
                    one = self._queue.popleft()
                    if one.done.set_running_or_notify_cancel():  # else its request has run out of time
                        batch.append(one)
                if batch:
                    return batch

    def _answer(self, model: Answers, batch: list[Waiting]) -> None:
        """Answers a batch. If that fails, each item alone, so that one item spoils no other's answer."""
        try:
            found = model.answer([one.item for one in batch], any(one.source for one in batch))
        except BaseException as error:  # a tokenizer written in Rust panics with a BaseException
            if len(batch) > 1:
                for one in batch:
                    self._answer(model, [one])
                return
            self._report(error)
            batch[0].done.set_exception(error if isinstance(error, Exception) else RuntimeError(str(error)))
            return
        for one, answer in zip(batch, found, strict=True):
            if isinstance(answer, UserError):
                one.done.set_exception(answer)
            else:
                one.done.set_result(answer)

    def _report(self, error: BaseException) -> None:
        """Says why an item could not be answered: the first time with the traceback, else in one line."""
        lines = (
            [f"{type(error).__name__}: {one_line(str(error))}"] if self._reported else traceback.format_exception(error)
        )
        self._reported = True
        print(f"serve   an item could not be answered: {''.join(lines).rstrip()}", file=sys.stderr)
