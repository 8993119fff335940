"""Measures one workload: all arms are checked for equal losses, then take turns, in another order each round."""

import os
import random
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bench.arithmetic import largest_difference, noise
from benchmarks.bench.arms import ARMS
from benchmarks.bench.processes import Failed, Home
from benchmarks.bench.workload import Missing, Prepared, Workload

SAME = 1e-5
"""Largest relative difference of losses after the same steps"""
QUICK = (2, 0)
"""Rounds on one thread and on all"""

Asked = dict[str, Connection]


def measure(
    home: Home,
    workload: Workload,
    data: Path | None,
    quick: bool,
    one_thread: bool = False,
    only: list[str] | None = None,
) -> dict[str, Any]:
    """The result of a workload as plain values. Raises Missing if it cannot run here."""
    began = time.monotonic()
    names = [n for n in workload.arms if only is None or n in only or n in (workload.baseline, workload.again)]
    absent = {n: ARMS[n].absent for n in names if ARMS[n].absent}
    names = [n for n in names if n not in absent]
    enough_memory(workload, len(names))
    prepared = home.prepare(workload, data)
    rounds = tuple(min(a, b) for a, b in zip(workload.rounds, QUICK, strict=True)) if quick else workload.rounds
    cores = 1 if one_thread else all_threads()
    found: dict[str, Any] = {"title": workload.title, "baseline": workload.baseline, "steps_of_a_turn": workload.steps}
    if workload.memory:
        found["weights_mib"] = mebibytes(prepared)
    with home.arms(workload, prepared, names) as arms:
        found["check"] = checked(arms)
        left_out = dict(found["check"]["wrong"])
        waiting = {name: arms[name] for name in arms if name not in left_out}
        left_out |= {name: said for name, said in started(waiting).items() if said}
        waiting = {name: arms[name] for name in arms if name not in left_out}
        if workload.baseline not in waiting:
            raise Failed(f"{workload.baseline}: {left_out[workload.baseline]}")
        found["not_run"] = {**absent, **left_out}
        shuffled = random.Random(0)
        found["threads"] = {}
        for threads, number in ((1, rounds[0]), (cores, rounds[1])):
            if str(threads) in found["threads"] or not number:
                continue
            found["threads"][str(threads)] = taken(waiting, workload, threads, number, shuffled)
    return {**found, "seconds": round(time.monotonic() - began)}


def all_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def mebibytes(prepared: Prepared) -> float:
    """Memory of one copy of the network's weights."""
    if prepared.weights is not None:
        return sum(t.numel() * t.element_size() for t in prepared.weights) / 2**20
    return (Path(prepared.folder) / "model.safetensors").stat().st_size / 2**20


def enough_memory(workload: Workload, arms: int) -> None:
    free, needed = psutil.virtual_memory().available / 2**30, workload.gib * arms
    if free < needed:
        raise Missing(f"needs about {needed:.0f} GiB of free memory for {arms} arms, {free:.0f} GiB are free")


def answer(connection: Connection) -> tuple[str, Any]:
    """What an arm says; an arm that died has failed."""
    try:
        kind, what = connection.recv()
    except (EOFError, OSError):
        return "failed", "the process died"
    return kind, what


def checked(arms: Asked) -> dict[str, Any]:
    """Runs the checks one by one, and compares the losses of all arms that do the same with those of the first of them.

    An arm that fails, or does other work, takes no turns: `wrong` says why.
    """
    losses: dict[str, list[float]] = {}
    found: dict[str, Any] = {"bound": SAME, "losses": losses, "difference": {}, "wrong": {}}
    for name, connection in arms.items():
        connection.send("check")
        kind, what = answer(connection)
        if kind == "failed":
            found["wrong"][name] = last_line(what)
        else:
            losses[name] = what
    for kind in sorted({ARMS[n].does for n in losses} - {""}):
        same = [n for n in losses if ARMS[n].does == kind]
        first = next((n for n in same if not ARMS[n].own), same[0])
        for name in same:
            off = found["difference"][name] = largest_difference(losses[name], losses[first])
            if off > SAME:
                found["wrong"][name] = f"does other work than {first}: losses differ by {off:.1e}"
    return found


def started(arms: Asked) -> dict[str, str]:
    """Starts each arm's second fit, one by one. Returns why an arm failed; empty for those that wait for turns."""
    said: dict[str, str] = {}
    for name, connection in arms.items():
        connection.send("turns")
        kind, what = answer(connection)
        said[name] = last_line(what) if kind == "failed" else ""
    return said


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def taken(arms: Asked, workload: Workload, threads: int, rounds: int, shuffled: random.Random) -> dict[str, Any]:
    """Turns of all arms: one that is not counted, then `rounds` in shuffled order."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for number in range(rounds + 1):
        names = sorted(arms)
        shuffled.shuffle(names)
        for name in names:
            arms[name].send((workload.steps, threads))
            kind, what = answer(arms[name])
            if kind == "failed":
                raise Failed(f"{name}: {what}")
            if number:
                turns[name].append(what)
    measures = [m for m in ("cpu", "wall", "device") if m in turns[workload.baseline][0]]
    found: dict[str, Any] = {"rounds": rounds, "arms": {}, "noise": {}}
    for name in workload.arms:
        if name in turns:
            found["arms"][name] = {m: [round(t[m], 6) for t in turns[name]] for m in measures}
            found["arms"][name] |= peaks(turns[name]) if workload.memory else {}
    for m in measures if workload.again in turns else ():
        held = noise(found["arms"][workload.again][m], found["arms"][workload.baseline][m])
        found["noise"][m] = held.to_dict()
    return found


def peaks(turns: Iterable[dict[str, float]]) -> dict[str, float]:
    """The largest peaks of memory, in MiB."""
    held = list(turns)
    return {m: round(max(t[m] for t in held), 1) for m in ("peak_over_start", "device_peak") if m in held[-1]}
