"""Asks a network on each sample of a split, and holds a metric's state sample by sample, so that samples can be drawn anew.

A meter of torchmetrics is kept as what each sample adds to its state: numbers that are summed (counts, confusions), and lists
that are joined (values to rank, texts). A metric on any draw of samples is `compute()` of the state that the draw gives.
Whether that holds is tried on all samples together, not assumed.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.structures import Batch, Output
from sft_lightning.data.base import SFTDataModule
from sft_lightning.evaluation.beside import calibration_meters
from sft_lightning.networks.base import Network
from sft_lightning.stats.summary import Array
from sft_lightning.tasks import RowTask, Task
from sft_lightning.tasks.box_scores import COLUMNS, BoxScores
from sft_lightning.tasks.calibration import BINS, CalibrationError
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters
from sft_lightning.tasks.text_score import TextScore

Lists = dict[str, list[Any]]
"""Lists of a meter's state, by attribute"""
CLOSE = 1e-6
"""Relative difference at which two ways to compute a metric count as equal"""


@dataclass
class Scores:
    """A network's scores on N samples of a split, sorted by row."""

    task: Task
    rows: np.ndarray
    """`[N]` row numbers, which identify samples"""
    values: dict[str, float]
    """Each metric over all samples, as an evaluation computes it"""
    meters: dict[str, Metric]
    states: dict[str, Array] = field(default_factory=dict)
    """For each meter that can be read by sample, `[N, K]` numbers that each sample adds; it starts from `starts`, `[K]`"""
    starts: dict[str, Array] = field(default_factory=dict)
    lists: dict[str, list[Lists]] = field(default_factory=dict)
    """For each of these, the lists that each of the N samples adds to; empty if its state is made of numbers alone"""

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.rows)

    def meter_of(self, metric: str) -> str | None:
        """The meter that measures a metric sample by sample; None if no meter can be read so."""
        for name, meter in self.meters.items():
            if name in self.states and metric in (name, *self.computed(meter, name, np.ones(self.n))):
                return name
        return None

    def is_sum(self, metric: str) -> bool:
        """Whether the metric is computed from sums, which takes little time for many samples."""
        return not any(self.lists[self.meter_of(metric) or ""])

    def gaps(self, metric: str) -> Array | None:
        """`[N, BINS + 1]`: in the bin of each sample's confidence, confidence − right. None for other metrics than ECE."""
        name = self.meter_of(metric)
        if name is None or not isinstance(self.meters[name], CalibrationError):
            return None
        return self.states[name][:, : BINS + 1]

    def on_draws(self, metric: str, draws: Iterable[Array]) -> Array:
        """The metric `[B]` on each of B draws, each `[N]`: how often each sample was drawn."""
        name = self.meter_of(metric)
        assert name is not None
        return np.array([self.computed(self.meters[name], name, draw).get(metric, np.nan) for draw in draws])

    def of_each(self, metric: str) -> Array:
        """The metric `[N]` on each sample alone; NaN where it says nothing."""
        name = self.meter_of(metric)
        assert name is not None
        found = (self.computed(self.meters[name], name, None, at).get(metric, np.nan) for at in range(self.n))
        return np.fromiter(found, dtype=float, count=self.n)

    def computed(self, meter: Metric, name: str, draw: Array | None, one: int = 0) -> dict[str, float]:
        """The meter's metrics on a draw, or on one sample; empty where it cannot say anything of these."""
        times = np.eye(1, self.n, one)[0] if draw is None else draw
        numbers = self.starts[name] + (self.states[name][one] if draw is None else draw @ self.states[name])
        joined, number = Lists(), 0
        for at in np.flatnonzero(times) if self.lists[name][0] else ():
            for _ in range(int(times[at])):
                for attribute, items in self.lists[name][at].items():
                    joined.setdefault(attribute, []).extend(numbered(meter, attribute, items, number))
                number += 1
        fill(meter, numbers, joined)
        return read(meter, name)


@torch.no_grad()
def ask(
    network: Network,
    data: SFTDataModule,
    split: str,
    task: Task,
    answer: Callable[[Batch], Output],
    receive: Callable[[Batch], Batch] | None = None,
) -> Scores:
    """Scores of a network on all samples of a split, in the batches of an evaluation.

    Where outputs of a batch cannot be told apart by sample, each sample is a batch of its own.

    Args:
        network: The network, settled on the data; it computes on a GPU if there is one.
        data: The data module.
        split: 'val' or 'test'.
        task: The task whose metrics are measured.
        answer: The network's output on a batch.
        receive: Finishes a batch on the device; default the data's own way.
    """
    receive = receive or data.receive
    if data.generate_samples != 0:
        data.generate_samples = None  # all
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).eval()
    found = Collected(task, split == "test")
    one = data.eval_batch_size
    try:
        for raw in data.loader(split, 0, 1):
            batch = receive(move_data_to_device(raw, device))
            if not found.take(batch, answer(batch)):
                break
        else:
            return found.scores()
        found, data.eval_batch_size = Collected(task, split == "test"), 1
        for raw in data.loader(split, 0, 1):
            batch = receive(move_data_to_device(raw, device))
            found.take(batch, answer(batch))
        return found.scores()
    finally:
        data.eval_batch_size = one


class Collected:
    """Collects meters' states of each sample, and of all together.

    Args:
        task: The task.
        final: Whether the metrics are those of a test.
    """

    def __init__(self, task: Task, final: bool) -> None:
        self.task = task
        self.whole, self.single = (
            {"loss": MeanLoss(), **calibration_meters(task), **task.make_metrics(final)} for _ in range(2)
        )
        self.rows: list[int] = []
        self.states: dict[str, list[tuple[Array, Lists]]] = {name: [] for name in self.single}

    def take(self, batch: Batch, output: Output) -> bool:
        """Adds a batch. False, and nothing is added, if its outputs cannot be told apart by sample."""
        samples = list(self.apart(batch, output))
        if not samples:
            return False
        for meters in (self.whole, self.single):
            for meter in meters.values():
                meter.to(output.logits.device)
        update_meters(self.task, self.whole, output, batch)
        for row, (one, said) in samples:
            for meter in self.single.values():
                meter.reset()
            update_meters(self.task, self.single, said, one)
            self.rows.append(row)
            for name, meter in self.single.items():
                self.states[name].append(state_of(meter))
        return True

    def apart(self, batch: Batch, output: Output) -> Iterator[tuple[int, tuple[Batch, Output]]]:
        """(row, (batch, output)) of each sample; nothing if that cannot be told."""
        index = (batch["index"][batch["real"]] if "real" in batch else batch["index"]).tolist()
        y, logits = batch.get("y"), output.logits
        rows = (
            isinstance(self.task, RowTask) and self.task.one_item_per_sample and self.task.rows(logits, batch) is logits
        )
        if rows and isinstance(y, Tensor) and len(y) == len(logits) == len(index):
            for i, row in enumerate(index):
                part = {"y": y[i : i + 1], "index": batch["index"][i : i + 1], "count": 1}
                yield row, (part, Output(logits[i : i + 1], output.features[i : i + 1]))
        elif len(index) == 1:
            yield index[0], (batch, output)

    def scores(self) -> Scores:
        """All that was collected, by row."""
        order = np.argsort(self.rows, kind="stable")
        values = read_meters(self.whole)
        scores = Scores(self.task, np.array(self.rows)[order], values, self.single)
        for name, meter in self.single.items():
            meter.to("cpu").reset()
            (start, lists), added = state_of(meter), self.states[name]
            if not start.size and not lists:
                continue
            scores.starts[name] = start
            scores.states[name] = np.stack([added[i][0] - start for i in order])
            scores.lists[name] = [added[i][1] for i in order]
            again = scores.computed(meter, name, np.ones(len(order)))
            if not again or not all(equal(again[metric], values[metric]) for metric in again):
                del scores.starts[name], scores.states[name], scores.lists[name]  # it keeps more than its state
        return scores


def state_of(meter: Metric) -> tuple[Array, Lists]:
    """A meter's state: its numbers `[K]`, and its lists by attribute."""
    numbers, lists = [np.zeros(0)], Lists()
    for name, held in meter.metric_state.items():
        if isinstance(held, Tensor):
            numbers.append(held.detach().double().cpu().numpy().ravel())
        else:
            lists[name] = [part.detach().cpu() for part in held]
    if isinstance(meter, TextScore):
        lists["pairs"] = list(meter.pairs)
    return np.concatenate(numbers), lists


def fill(meter: Metric, numbers: Array, lists: Lists) -> None:
    """Sets a meter's state from its numbers `[K]` and lists."""
    meter.reset()
    at = 0
    for name, held in meter.metric_state.items():
        if isinstance(held, Tensor):
            part = torch.from_numpy(numbers[at : at + held.numel()].copy()).reshape(held.shape)
            setattr(meter, name, (part if held.is_floating_point() else part.round()).to(held.dtype))
            at += held.numel()
    for name, items in lists.items():
        setattr(meter, name, items)


def numbered(meter: Metric, attribute: str, items: list[Any], number: int) -> list[Any]:
    """A sample's part of a list. Boxes hold their image's number, which must differ between copies of one drawn twice."""
    if not isinstance(meter, BoxScores):
        return items
    made = []
    for part in items:
        values = part.numpy().view(np.float64).copy()
        values.reshape(-1, 1 if attribute == "images" else COLUMNS)[:, 0] = number
        made.append(torch.from_numpy(values.view(np.int64)))
    return made


def read(meter: Metric, name: str) -> dict[str, float]:
    """The meter's metrics now, by name; empty where it cannot say anything of so few samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no update was called before, and that few samples say little
        try:
            found: Any = meter.compute()
        except (ValueError, RuntimeError, ZeroDivisionError, IndexError):
            return {}
    return {n: float(v) for n, v in (found.items() if isinstance(found, dict) else ((name, found),))}


def equal(one: float, other: float) -> bool:
    """Whether two values are equal up to rounding; NaN equals NaN."""
    return bool(np.isclose(one, other, rtol=CLOSE, atol=CLOSE, equal_nan=True))
