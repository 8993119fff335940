"""Holds an arm between two optimizer steps until its turn comes. No arm needs to know of it.

A hook after every optimizer step of the process counts steps, whichever library takes them. So a turn of k steps is all that
happens from the end of one step to the end of the k-th after it: loading, hooks, logging, forward and backward.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import psutil
import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.bench.meter import Memory, Turn


class Enough(Exception):
    """Ends the check from within the fit."""


class Gate:
    """Counts an arm's optimizer steps. In its first fit, the check, it notes losses; in the second, it takes turns."""

    def __init__(self, to: Connection) -> None:
        self.to, self.cuda = to, torch.cuda.is_available()
        self.probe: Callable[[], float] | None = None
        """Loss of the arm's network on a fixed batch; the arm sets it as it builds its network"""
        self.losses: list[float] = []
        self.left, self.steps, self.checking = 0, 0, False
        self.ended = False
        """Whether the check has taken its steps"""
        self.turn, self.memory = Turn(), Memory()
        register_optimizer_step_post_hook(self.stepped)

    def check(self, steps: int) -> None:
        """From now on, notes a loss after each step, and ends the fit after so many."""
        self.checking, self.ended, self.left, self.losses, self.probe = True, False, steps, [], None

    def take_turns(self) -> None:
        """From now on, waits for a turn after the first step."""
        self.checking, self.ended, self.left, self.steps, self.probe = False, False, 1, 0, None
        self.memory = Memory()

    def stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.checking:
            if self.probe is None:
                raise RuntimeError("the arm set no probe")
            with torch.no_grad():
                self.losses.append(float(self.probe()))
        self.left -= 1
        if self.left:
            return
        if self.checking:
            self.end()
        if self.steps:
            self.to.send(("turn", {**self.turn.end(self.steps), **self.memory.found(self.cuda)}))
        else:
            self.to.send(("ready", None))
        self.wait()

    def end(self) -> NoReturn:
        """Ends the check."""
        self.ended = True
        raise Enough

    def wait(self) -> None:
        """Blocks until the next turn. The last word ends the process as it stands: nothing is saved or exported."""
        asked, threads = self.to.recv()
        if asked == 0:
            leave(0)
        torch.set_num_threads(threads)
        self.left = self.steps = asked
        self.turn.begin(self.cuda)


def leave(code: int) -> NoReturn:
    """Ends the process, and the children that would outlive it, such as W&B's service."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os._exit(code)
