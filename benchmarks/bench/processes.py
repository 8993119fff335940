"""One process for each arm, forked from one that has imported what it needs: it stays warm and waits for its turns.

Peers are forked from the command's own process, which imports torch and the peers' libraries. Our arms are forked from a child
of it that imports sft_lightning too. What both imported is frozen, so that searching for garbage costs all arms the same.
"""

import gc
import importlib
import multiprocessing as mp
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from benchmarks.bench import parts
from benchmarks.bench.arms import ARMS, Arm
from benchmarks.bench.gate import Enough, Gate, leave
from benchmarks.bench.job import Job
from benchmarks.bench.workload import Missing, Prepared, Workload

PEERS = ("torch", "torchvision", "lightning.pytorch", "lightning.fabric", "transformers", "timm.optim", "timm.utils")
OWN = ("sft_lightning.cli.main", "sft_lightning.cli.fit", "benchmarks.bench.own", "benchmarks.bench.prepare")
FORK: Any = mp.get_context("fork")


class Failed(Exception):
    """An arm, or what prepares a workload, came to an error; the message is its last lines."""


class Home:
    """The processes of a command. `place` is for the arms' files."""

    def __init__(self, place: Path) -> None:
        self.place, self.address = place, str(place / "arms")
        load(PEERS)
        self.listener = Listener(self.address, "AF_UNIX")
        self.own, theirs = FORK.Pipe()
        self.child = FORK.Process(target=own_home, args=(theirs, self.address))
        self.child.start()
        theirs.close()

    def prepare(self, workload: Workload, data: Path | None) -> Prepared:
        """Raises Missing, or Failed."""
        import torch

        folder = self.place / workload.name
        folder.mkdir()
        self.own.send(("prepare", workload, data, folder))
        kind, what = self.own.recv()
        if kind != "prepared":
            raise (Missing if kind == "missing" else Failed)(what)
        held: Prepared = torch.load(what, weights_only=False)
        return held

    @contextmanager
    def arms(self, workload: Workload, prepared: Prepared, names: list[str]) -> Iterator[dict[str, Connection]]:
        """Starts an arm after the other, and ends all at the end. Each says when its check is done."""
        ours = [n for n in names if ARMS[n].own]
        peers: list[Any] = []
        for name in names:
            if name not in ours:
                peers.append(FORK.Process(target=work, args=(ARMS[name], workload, prepared, self.address, self.place)))
                peers[-1].start()
        self.own.send(("start", workload, ours, self.place))
        connected: dict[str, Connection] = {}
        for _ in names:
            connection = self.listener.accept()
            connected[connection.recv()] = connection
        try:
            yield connected
        finally:
            for connection in connected.values():
                with suppress(OSError):
                    connection.send((0, 1))
                connection.close()  # an arm that does not wait for a turn ends as it next says something
            for process in peers:
                process.join()
            self.own.send(("join",))
            self.own.recv()

    def close(self) -> None:
        self.own.send(("end",))
        self.child.join()
        self.listener.close()


def load(modules: tuple[str, ...]) -> None:
    """Imports, and leaves all objects there are out of later searches for garbage."""
    for name in modules:
        importlib.import_module(name)
    if "transformers" in modules:
        from transformers import Trainer  # noqa: F401  loads itself lazily, which takes seconds
    gc.collect()
    gc.freeze()


def own_home(to: Connection, address: str) -> None:
    """The process from which our own arms are forked."""
    load(OWN)
    from benchmarks.bench.prepare import prepare

    held: Prepared | None = None
    children: list[Any] = []
    while True:
        asked = to.recv()
        if asked[0] == "prepare":
            _, workload, data, folder = asked
            try:
                held = prepare(workload, data, folder)
                importlib.import_module("torch").save(held, folder / "prepared.pt")
                to.send(("prepared", str(folder / "prepared.pt")))
            except Missing as error:
                to.send(("missing", str(error)))
            except Exception:  # it goes to the process that asked
                to.send(("failed", traceback.format_exc()))
        elif asked[0] == "start":
            _, workload, names, place = asked
            for name in names:
                children.append(FORK.Process(target=work, args=(ARMS[name], workload, held, address, place)))
                children[-1].start()
        elif asked[0] == "join":
            for process in children:
                process.join()
            children.clear()
            to.send(("joined",))
        else:
            return


def work(arm: Arm, workload: Workload, prepared: Prepared, address: str, place: Path) -> None:
    """An arm's whole life: the check, then turns until told to stop.

    The check is in a fork of its own, so that memory and time of the turns are those of a fresh process.
    """
    folder = place / workload.name / arm.name
    folder.mkdir(parents=True)
    to = Client(address, "AF_UNIX")
    to.send(arm.name)
    log = os.open(folder / "output", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    importlib.import_module("torch").set_num_threads(1)
    job = Job(arm.name, workload, prepared, Gate(to), folder)
    to.recv()
    child = os.fork()
    if child == 0:
        job.gate.check(workload.check_steps)
        fit(arm, job)
        to.send(("checked", job.gate.losses))
        leave(0)
    if os.waitpid(child, 0)[1] == 0 and to.recv() == "turns":
        job.check = False
        job.gate.take_turns()
        job.gate.turn.clock = parts.asked()
        fit(arm, job)
    leave(0)


def fit(arm: Arm, job: Job) -> None:
    """One fit, until the gate ends it. An error ends the process, once it is told."""
    try:
        with suppress(Enough):
            arm.function()(job)
    except BaseException:
        with suppress(OSError):
            job.gate.to.send(("failed", traceback.format_exc()))
        leave(1)
