"""Asks a network on each sample of a split, and holds a metric's state sample by sample, so that samples can be drawn anew.

A meter of torchmetrics whose state is a sum over samples (counts, confusions, n-gram matches) is kept as one row for each
sample: a metric on any draw of samples is `compute()` of the weighted sum of rows. Whether that holds is tried, not assumed.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.core.structures import Batch, Output
from sft_lightning.data.base import SFTDataModule
from sft_lightning.networks.base import Network
from sft_lightning.stats.summary import Array
from sft_lightning.tasks import RowTask, Task
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters

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
    """For each meter whose state is a sum, `[N, K]` what each sample adds; `[K]` values that it starts from are in `starts`"""
    starts: dict[str, Array] = field(default_factory=dict)
    kept: tuple[Tensor, Tensor] | None = None
    """Outputs `[N, C]` and targets `[N]`, for meters whose state is not a sum; None if a sample is not one row"""

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.rows)

    def meter_of(self, metric: str) -> str | None:
        """The meter that measures a metric sample by sample; None if no meter can be read so."""
        for name, meter in self.meters.items():
            if name == metric or (name not in self.values and metric in self._all(name, meter)):
                return name if name in self.states or (self.kept is not None and name != "loss") else None
        return None

    def _all(self, name: str, meter: Metric) -> dict[str, float]:
        return self._computed(meter, name, np.ones(self.n)) if name in self.states else {}

    def on_draws(self, metric: str, draws: Array) -> Array:
        """The metric `[B]` on each of B draws: `draws[B, N]` says how often each sample was drawn."""
        name = self.meter_of(metric)
        assert name is not None
        return np.array([self._computed(self.meters[name], name, draw).get(metric, np.nan) for draw in draws])

    def of_each(self, metric: str) -> Array:
        """The metric `[N]` on each sample alone; NaN where it says nothing."""
        name = self.meter_of(metric)
        assert name is not None
        found = (self._computed(self.meters[name], name, None, at).get(metric, np.nan) for at in range(self.n))
        return np.fromiter(found, dtype=float, count=self.n)

    def _computed(self, meter: Metric, name: str, draw: Array | None, one: int = 0) -> dict[str, float]:
        """The meter's metrics on a draw, or on one sample."""
        if name in self.states:
            states = self.states[name]
            fill(meter, self.starts[name] + (states[one] if draw is None else draw @ states))
        else:
            assert self.kept is not None and isinstance(self.task, RowTask)
            at = torch.tensor([one] if draw is None else np.repeat(np.arange(self.n), draw.astype(np.int64)))
            meter.reset()
            self.task.update_rows(meter, self.kept[0][at], self.kept[1][at])
        return computed(meter, name)


@torch.no_grad()
def ask(network: Network, data: SFTDataModule, split: str, task: Task, answer: Callable[[Batch], Output]) -> Scores:
    """Scores of a network on all samples of a split, in the batches of an evaluation.

    Where outputs of a batch cannot be told apart by sample, each sample is a batch of its own.

    Args:
        network: The network, settled on the data; it computes on a GPU if there is one.
        data: The data module.
        split: 'val' or 'test'.
        task: The task whose metrics are measured.
        answer: The network's output on a batch.
    """
    if data.generate_samples != 0:
        data.generate_samples = None  # all
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).eval()
    found = Collected(task, split == "test")
    one = data.eval_batch_size
    try:
        for raw in data.loader(split, 0, 1):
            batch = data.receive(move_data_to_device(raw, device))
            if not found.take(batch, answer(batch)):
                break
        else:
            return found.scores()
        found, data.eval_batch_size = Collected(task, split == "test"), 1
        for raw in data.loader(split, 0, 1):
            batch = data.receive(move_data_to_device(raw, device))
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
        self.whole, self.single = ({"loss": MeanLoss(), **task.make_metrics(final)} for _ in range(2))
        self.rows: list[int] = []
        self.states: dict[str, list[Array | None]] = {name: [] for name in self.single}
        self.outputs: list[tuple[Tensor, Tensor]] = []

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
                self.outputs.append((logits[i].float().cpu(), y[i].cpu()))
                part = {"y": y[i : i + 1], "index": batch["index"][i : i + 1], "count": 1}
                yield row, (part, Output(logits[i : i + 1], output.features[i : i + 1]))
        elif len(index) == 1:
            yield index[0], (batch, output)

    def scores(self) -> Scores:
        """All that was collected, by row."""
        order = np.argsort(self.rows, kind="stable")
        values = read_meters(self.whole)
        kept: tuple[Tensor, Tensor] | None = None
        if len(self.outputs) == len(self.rows):
            outputs, targets = (torch.stack(held)[order] for held in zip(*self.outputs, strict=True))
            kept = outputs, targets
        scores = Scores(self.task, np.array(self.rows)[order], values, self.single, kept=kept)
        for name, meter in self.single.items():
            meter.to("cpu").reset()
            start, states = state_of(meter), self.states[name]
            if start is None or not start.size or any(state is None or state.shape != start.shape for state in states):
                continue
            scores.starts[name] = start
            scores.states[name] = np.stack([states[i] - start for i in order])
            again = scores._computed(meter, name, np.ones(len(order)))
            if not again or not all(equal(again[metric], values[metric]) for metric in again):
                del scores.starts[name], scores.states[name]  # its state is not a sum over samples
        return scores


def state_of(meter: Metric) -> Array | None:
    """A meter's state as numbers `[K]`; None if it is not made of tensors."""
    held = meter.metric_state.values()
    parts = [part for part in held if isinstance(part, Tensor)]
    if len(parts) < len(held):
        return None
    return np.concatenate([part.detach().double().cpu().numpy().ravel() for part in parts] or [np.zeros(0)])


def fill(meter: Metric, numbers: Array) -> None:
    """Sets a meter's state from numbers `[K]`."""
    meter.reset()
    at = 0
    for name, held in meter.metric_state.items():
        assert isinstance(held, Tensor)
        part = torch.from_numpy(numbers[at : at + held.numel()].copy()).reshape(held.shape)
        setattr(meter, name, (part if held.is_floating_point() else part.round()).to(held.dtype))
        at += held.numel()


def computed(meter: Metric, name: str) -> dict[str, float]:
    """The meter's metrics now, by name; empty where it cannot say anything of so few samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no update was called before, and that few samples say little
        try:
            found: Any = meter.compute()
        except (ValueError, RuntimeError, ZeroDivisionError):
            return {}
    return {n: float(v) for n, v in (found.items() if isinstance(found, dict) else ((name, found),))}


def equal(one: float, other: float) -> bool:
    """Whether two values are equal up to rounding; NaN equals NaN."""
    return bool(np.isclose(one, other, rtol=CLOSE, atol=CLOSE, equal_nan=True))
