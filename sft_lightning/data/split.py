"""A split: some of the loaded rows, fetched as whole batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Rows
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.sampler import Key
from sft_lightning.data.samples import Samples


class Split(Dataset[Batch]):
    """Some of the rows of loaded samples, fetched as whole batches.

    Args:
        samples: The loaded samples.
        rows: `[R]` row numbers, in the split's order.
        targets: `[R]` class numbers or values; None if unlabelled or if the target is part of the sample.
        train: Whether views vary, as in training.
        name: The split's name, for messages.
    """

    def __init__(
        self, samples: Samples, rows: np.ndarray, targets: np.ndarray | None, train: bool, name: str = ""
    ) -> None:
        self.samples, self.rows, self.targets, self.train, self.name = samples, rows, targets, train, name

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Fetches one batch. `real` is False for fillers; `skipped` names samples left out."""
        compared = keys[0].compared
        x, keys, bad = self.fetch_readable(keys)
        positions = np.array([k.position for k in keys], dtype=np.int64)
        rows = self.rows[positions]
        batch: Batch = {
            "x": x,
            "index": torch.from_numpy(rows),
            "rows": Rows(rows.tolist()),
            "epoch": keys[0].epoch,
            "train": self.train,
            "compared": compared,
            "samples": sum(k.real for k in keys),
        }
        if keys[0].generated:
            batch |= self.samples.prompts([int(row) for row in rows])
        if not self.train and (beside := self.samples.beside([int(row) for row in rows])) is not None:
            batch["beside"] = beside
        if bad:
            batch["skipped"] = (self.name, {self.samples.name(row): why for row, why in bad.items()})
        real = torch.tensor([k.real for k in keys])
        if not real.all():
            batch["real"] = real
        if "bytes" in x:
            batch["bytes"] = x.pop("bytes") * real
        if "covered" in x:
            batch["covered"] = x.pop("covered")
        if "select" in x:  # the samples have items of their own, such as tokens
            select, y = x.pop("select"), x.pop("y", None)
            of_sample = real.view(-1, *[1] * (select.ndim - 1)).expand_as(select)
            batch["select"] = select & of_sample
            if not self.samples.one_item_each:
                batch["count"] = int(batch["select"].sum())
                if y is not None:
                    batch["y"] = y[of_sample[select]]
                return batch
            if y is not None:
                batch["y"] = y[real]
        if "y" not in batch and self.targets is not None:
            batch["y"] = torch.from_numpy(self.targets[positions][real.numpy()])
        batch["count"] = int(real.sum())
        return batch

    def __getitem__(self, key: Key | int) -> Batch:
        return self.__getitems__([key if isinstance(key, Key) else Key(int(key), 0)])

    def fetch_readable(self, keys: Sequence[Key]) -> tuple[dict[str, Any], list[Key], dict[int, str]]:
        """Returns a batch's network inputs, their keys, and the rows left out with the reasons.

        If no sample is left, one nearby becomes a filler. Raises UserError if samples may not be left out.
        """
        samples, left, bad = self.samples, list(keys), dict[int, str]()
        nearby = ((keys[0].position + step) % len(self) for step in range(1, len(self)))
        while True:
            try:
                return samples.fetch([int(self.rows[k.position]) for k in left], left, self.train), left, bad
            except BadSample as error:
                readable = [k for k in left if int(self.rows[k.position]) not in error.rows]
                if not samples.skips or len(readable) == len(left):
                    raise error.at(error.key) from None  # torch cannot pass on a BadSample from a worker
                if any(k.real for k in left):
                    bad |= error.rows
                if not readable:
                    position = next(nearby, None)
                    if position is None:
                        raise UserError(
                            "data",
                            f"not one sample of {self.name} can be read; the last: {error.problem}",
                            "replace the samples",
                        ) from None
                    readable = [Key(position, keys[0].epoch, real=False)]
                left = readable
