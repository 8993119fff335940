"""Counts the samples that a metric is measured on, batch by batch, on all ranks."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Trainer

from sft_lightning.core.metric_info import COUNTED
from sft_lightning.core.structures import Batch
from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.drawn import limit_of


class Passed:
    """Counts this rank's samples, those on which student and teacher are compared, and those for which texts are generated;
    fillers do not count.
    """

    def __init__(self) -> None:
        self.samples = self.compared = self.generated = 0
        self.compared_now = True

    def count(self, batch: Batch) -> None:
        """Counts one batch."""
        number = int(batch.get("samples", len(batch["index"])))
        self.compared_now = bool(batch.get("compared", True))
        self.samples += number
        self.compared += number * self.compared_now
        self.generated += number * ("prompt" in batch)

    def through(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yields and counts the loader's batches. Iteration starts, and draws its random number, only within `evaluate`."""
        for batch in loader:
            self.count(batch)
            yield batch


def over_ranks(counts: list[int]) -> list[int]:
    """The sums of the counts over all ranks. Every rank must call this."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return counts
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, counts)
    return [sum(part) for part in zip(*parts, strict=True)]


def counted(
    split: str, target: Passed, source: Passed, compared: int, relearned: int, sets: Mapping[str, Passed]
) -> dict[str, float]:
    """Numbers of samples behind the metrics of a split, on all ranks, as `n/…`: for the columns of `COUNTED`, and for named
    sets. Every rank must call this.
    """
    counts = [target.samples, source.samples, compared, target.generated, source.generated]
    found = [*over_ranks(counts), relearned]
    numbers = {f"n/{column}": float(n) for column, n in zip(COUNTED[split], found, strict=True) if n}
    of_sets = over_ranks([passed.samples for passed in sets.values()]) if sets else []
    test = "test/" if split == "test" else ""
    return numbers | {f"n/{test}retention/{n}": float(c) for n, c in zip(sets, of_sets, strict=True)}


def drawn_line(trainer: Trainer, source: SFTDataModule | None, drift_rows: int) -> str | None:
    """A line about how many validation samples are drawn; None if all are measured and compared."""
    said, limit = [], limit_of(trainer, "val")
    for what, data in (("val", trainer.datamodule), ("retention", source)):  # type: ignore[attr-defined]
        if not isinstance(data, SFTDataModule) or "val" not in data.splits:
            continue
        size, drawn = len(data.splits["val"]), data.samples_measured("val", limit)
        if drawn < size:
            said.append(f"{what} {drawn:,} of {size:,}")
        if what == "val" and drift_rows < drawn:
            said.append(f"drift {drift_rows:,} of {size:,}")
    return f"measured   on samples drawn evenly: {', '.join(said)}" if said else None
