"""The checks. They know a peer by its interface alone."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers import plain
from benchmarks.peers.interface import Arm, Measured, Peer, Stoppable, Trained, Weights
from benchmarks.peers.processes import Failed, run
from benchmarks.peers.tiny_tasks import Files

BOUNDS = {"float64": 1e-6, "float32": 1e-5}
ACCUMULATE = (1, 2, 4, 8)
FULL, RAGGED = 48, 37
EPOCH = 3
"""Optimizer steps of an epoch"""


@dataclass
class Row:
    """What one check says of a peer in one of its settings."""

    check: str
    peer: str
    setting: str
    passed: bool
    value: float | None
    """The largest over the check's arms; None where no arm came to an end"""
    kind: str
    """'relative error' or 'count'"""
    bound: float
    note: str = ""


class Family:
    """Runs a peer's arms, and remembers the reference they are held against."""

    def __init__(self, peer: Peer, files: Files) -> None:
        self.peer, self.files = peer, files
        self._orders: dict[tuple[str, int], list[list[int]]] = {}
        self._plain: dict[Arm, Trained] = {}

    def train(self, arm: Arm) -> list[Trained]:
        return run(self.peer.train, arm, self.files, processes=arm.processes)

    def order(self, task: str, rows: int) -> list[list[int]]:
        """The samples of each step in the peer's own order: in one process, without accumulation."""
        if (task, rows) not in self._orders:
            self._orders[task, rows] = self.train(Arm(task, rows))[0].rows
        return self._orders[task, rows]

    def reference(self, arm: Arm) -> Trained:
        """The same training in plain PyTorch."""
        key = Arm(arm.task, arm.rows, loss=arm.loss, dtype=arm.dtype, optimizer=arm.optimizer)
        if key not in self._plain:
            order = self.order(arm.task, arm.rows)
            (self._plain[key],) = run(plain.train, key, order, self.files)
        return self._plain[key]

    # ---- training ----

    def training(self, check: str, family: str, arms: list[Arm], samples: bool = False) -> Iterator[Row]:
        """Gradients and weights of every step of every arm against plain PyTorch; with `samples`, who was seen too."""
        bound = BOUNDS[arms[0].dtype]
        worst, note, off, broken = 0.0, "", 0, []
        for arm in arms:
            try:
                ranks = self.train(arm)
            except Failed as error:
                broken.append(f"{arm}: {error}")
                continue
            expected = self.reference(arm)
            errors = [difference(expected, rank) for rank in ranks]
            if max(errors) >= worst:
                worst, ratio = max(errors), length(ranks[0].grads[0]) / length(expected.grads[0])
                note = f"worst: {arm}" + (f", first gradient × {ratio:.3g}" if abs(ratio - 1) > bound else "")
            off = max(off, miscounted(self.order(arm.task, arm.rows), ranks, arm.rows))
        passed, found = not broken and worst <= bound, None if len(broken) == len(arms) else worst
        why = "" if passed else self.peer.why(family, arms[0].setting, arms[-1])
        notes = "; ".join(part for part in (*broken, note, why) if part)
        yield Row(check, self.peer.name, arms[0].setting, passed, found, "relative error", bound, notes)
        if samples:
            counted = not broken and off == 0
            why = "" if counted else self.peer.why("samples", arms[0].setting, arms[-1])
            yield Row(
                f"{check.removesuffix(', float64')}, samples twice, dropped or in another step",
                *(self.peer.name, arms[0].setting, counted, None if broken else float(off), "count", 0.0),
                "; ".join(part for part in (*broken, why) if part),
            )

    def plain_training(self) -> Iterator[Row]:
        """The task's own loss."""
        for task in ("classification", "causal_lm"):
            for rows, windows in ((FULL, "full windows"), (RAGGED, "ragged last window")):
                for processes in (1, 2):
                    base = Arm(task, rows, processes=processes)
                    where = f"{task}, {windows}, {count(processes)}"
                    for setting in self.peer.SETTINGS[task]:
                        arms = [replace(base, setting=setting, accumulate=a) for a in ACCUMULATE]
                        single = [replace(a, dtype="float32") for a in arms]
                        if setting == "default":
                            arms += [replace(a, optimizer="AdamW") for a in (arms[0], arms[-1])]
                        found = list(self.training(f"{where}, float64", task, arms, samples=True))
                        if setting == "default":
                            found += self.training(f"{where}, float32", task, single)
                        yield from found
                        if all(row.passed for row in found):
                            break  # no need of another setting

    def anchored_training(self) -> Iterator[Row]:
        """Losses as users write them."""
        about = {"distill": "distillation", "l2sp": "L2-SP"}
        for loss, text in about.items():
            for rows, processes, windows in ((RAGGED, 1, "ragged last window"), (FULL, 2, "full windows")):
                for setting in self.peer.SETTINGS[loss]:
                    base = Arm("causal_lm", rows, setting, loss, processes=processes)
                    arms = [replace(base, accumulate=a) for a in ACCUMULATE]
                    yield from self.training(f"{text}, {windows}, {count(processes)}", loss, arms)

    # ---- evaluation ----

    def evaluation(self) -> Iterator[Row]:
        """Against plain PyTorch and scikit-learn on all predictions together."""
        for task in ("classification", "causal_lm"):
            for processes in (1, 2):
                for setting in self.peer.SETTINGS[f"evaluation of {task}"]:
                    arms = [Arm(task, n, setting, processes=processes, dtype="float32") for n in (1, 5, 21)]
                    found = self.measured(f"evaluation, {task}, {count(processes)}", arms)
                    yield from found
                    if all(row.passed for row in found):
                        break

    def measured(self, check: str, arms: list[Arm]) -> list[Row]:
        """Loss, metrics and number of predictions, the worst over `arms`."""
        errors = {"loss": 0.0, "metrics": 0.0, "predictions": 0.0}
        notes, broken = {"loss": "", "metrics": ""}, []
        for arm in arms:
            (expected,) = run(plain.evaluate, arm, self.files)
            try:
                ranks: list[Measured] = run(self.peer.evaluate, arm, self.files, processes=arm.processes)
            except Failed as error:
                broken.append(f"n = {arm.rows}: {error}")
                continue
            seen = Counter(r for rank in (ranks[:1] if self.peer.gathers else ranks) for r in rank.rows)
            wrong = sum(abs(seen[r] - 1) for r in {*seen, *range(arm.rows)})
            errors["predictions"] = max(errors["predictions"], float(wrong))
            for rank in ranks:
                off = {"loss": relative(rank.loss, expected.loss)}
                off["metrics"] = max(relative(rank.metrics[m], v) for m, v in expected.metrics.items())
                for name, value in off.items():
                    if value > errors[name]:
                        said = rank.loss / expected.loss if name == "loss" else None
                        errors[name], notes[name] = value, f"worst: n = {arm.rows}"
                        notes[name] += f", × {said:.4g}" if said and value > BOUNDS["float32"] else ""
        found = []
        for name, value in errors.items():
            bound, kind = (0.0, "count") if name == "predictions" else (BOUNDS["float32"], "relative error")
            passed = not broken and value <= bound
            why = "" if passed or name != "loss" else self.peer.why("evaluation", arms[0].setting, arms[-1])
            text = "; ".join(part for part in (*broken, notes.get(name, ""), why) if part)
            shown = None if len(broken) == len(arms) else value
            title = f"{check}: {'predictions twice or missing' if name == 'predictions' else name}"
            found.append(Row(title, self.peer.name, arms[0].setting, passed, shown, kind, bound, text))
        return found

    # ---- seeds ----

    def seeds(self) -> Iterator[Row]:
        """Three trainings in fresh processes: seed 0 twice, and seed 1."""
        for setting in self.peer.SETTINGS["seeds"]:
            try:
                one, again, other = (run(self.peer.seeded, setting, seed, self.files)[0] for seed in (0, 0, 1))
            except Failed as error:
                yield Row("seeds", self.peer.name, setting, False, None, "count", 0.0, str(error))
                continue
            why, head = self.peer.why("seeds", setting, Arm("classification", RAGGED)), "classifier.weight"
            same = float(len(unequal(one.weights[-1], again.weights[-1])))
            found = [
                ("same seed: tensors that differ", same == 0, same),
                ("another seed: heads that stay the same", not torch.equal(one.start[head], other.start[head]), None),
                ("another seed: orders that stay the same", one.rows != other.rows, None),
            ]
            for check, passed, value in found:
                value = float(not passed) if value is None else value
                yield Row(check, self.peer.name, setting, passed, value, "count", 0.0, "" if passed else why)
            if all(passed for _, passed, _ in found):
                break

    # ---- stopping and going on ----

    def resume(self) -> Iterator[Row]:
        """Stopped amid the first epoch, and amid the second while accumulating; then on in a new process."""
        for setting in self.peer.SETTINGS["resume"]:
            for workers in (0, 2):
                differ, note, broken = 0, [], []
                for stop, accumulate in ((3, 1), (7, 2)):
                    with tempfile.TemporaryDirectory() as folder:
                        plan = Stoppable(f"{folder}/whole", stop, "whole", accumulate, workers, setting)
                        part = replace(plan, folder=f"{folder}/parts")
                        try:
                            (whole,) = run(self.peer.stoppable, plan, self.files)
                            run(self.peer.stoppable, replace(part, part="first"), self.files, may_die=True)
                            (resumed,) = run(self.peer.stoppable, replace(part, part="second"), self.files)
                        except Failed as error:
                            broken.append(f"step {stop}: {error}")
                            continue
                    names = unequal(whole, resumed)
                    if names:
                        differ = max(differ, len(names))
                        error = float((flat(whole) - flat(resumed)).norm() / flat(whole).norm())
                        note.append(f"step {stop}, accumulate {accumulate}: off by {error:.1e}")
                passed = not broken and not differ
                yield Row(
                    f"resume amid an epoch, dropout, {workers} workers: tensors that differ",
                    *(self.peer.name, setting, passed, None if broken else float(differ), "count", 0.0),
                    "; ".join([*broken, *note]),
                )


# ---- comparing ----


def count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def flat(named: Weights) -> Tensor:
    """All tensors in one, in double precision."""
    return torch.cat([named[n].flatten().double() for n in sorted(named)])


def length(named: Weights) -> float:
    return float(flat(named).norm())


def difference(expected: Trained, found: Trained) -> float:
    """Largest over steps of |gradient − reference| / |reference|, and of the same for the weights.

    Over all parameters together: some have no gradient but rounding (a key's bias under softmax).
    """
    if len(found.weights) != len(expected.weights):
        return float("inf")
    pairs = zip([*found.grads, *found.weights], [*expected.grads, *expected.weights], strict=True)
    errors = [(flat(mine) - flat(theirs)).norm() / flat(theirs).norm() for mine, theirs in pairs]
    return float(torch.stack(errors).nan_to_num(float("inf")).max())


def miscounted(order: list[list[int]], ranks: list[Trained], rows: int) -> int:
    """Samples that the first epoch took twice or not at all, over all processes, or took in another step."""
    wrong = 0
    for step in range(EPOCH):
        seen = Counter(r for rank in ranks for r in (rank.rows[step] if step < len(rank.rows) else []))
        expected = Counter(order[step])
        wrong += sum(((seen - expected) + (expected - seen)).values())
    return wrong


def relative(found: float, expected: float) -> float:
    """|found − expected| / |expected|; the difference itself where 0 is expected."""
    return abs(found - expected) / (abs(expected) or 1.0)


def unequal(one: Weights, other: Weights) -> list[str]:
    """Names of tensors that are not bit for bit the same."""
    return [n for n in {*one, *other} if n not in one or n not in other or not torch.equal(one[n], other[n])]


FAMILIES: dict[str, Any] = {
    "training": Family.plain_training,
    "anchored": Family.anchored_training,
    "evaluation": Family.evaluation,
    "seeds": Family.seeds,
    "resume": Family.resume,
}
"""In this order"""
