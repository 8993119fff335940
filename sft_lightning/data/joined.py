"""Samples of two data sets as one: rows of the first, then those of the second, with targets numbered over both."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import TaskInfo, Texts
from sft_lightning.data.bad_samples import BadSample
from sft_lightning.data.datamodule import SFTDataModule
from sft_lightning.data.sampler import Key
from sft_lightning.data.samples import Samples
from sft_lightning.tasks.box_scores import Picture

AUGMENTATION = {"augment": None, "crop_padding": 4}
"""Settings of images that hold for all training samples alike, and stand in the new data; with their defaults"""


class Joined(Samples):
    """Samples of several data sets; the rows of each follow those of the one before.

    Args:
        parts: The data sets' samples.
        tables: For each, its class numbers as numbers over all labels, `[C]`; −1 for a class that is not used.
        said: For each, what stands behind the names of its samples.
        covers: For each, which of all labels its annotation speaks of, `[parts, C]`; None if an item has one label.
    """

    def __init__(
        self,
        parts: Sequence[Samples],
        tables: Sequence[np.ndarray],
        said: Sequence[str],
        covers: np.ndarray | None = None,
    ) -> None:
        self.parts, self.tables, self.said, self.covers = list(parts), list(tables), list(said), covers
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        # Each split has its targets. Here it matters only whether the samples have them.
        self.targets = None
        self.skips = any(part.skips for part in parts)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def at(self, row: int) -> tuple[int, int]:
        """The part that a row is in, and its number there."""
        part = int(self.part_of(np.array(row)))
        return part, int(row - self.starts[part])

    def part_of(self, rows: np.ndarray) -> np.ndarray:
        """The number of the part that each row is in."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """Fetches each part's rows, and puts them in the order of `rows`, padded to the longest sample."""
        places = [self.at(row) for row in rows]
        found: list[tuple[list[int], dict[str, Any]]] = []
        bad: dict[int, str] = {}
        failed: BadSample | None = None
        for number, part in enumerate(self.parts):
            mine = [i for i, (which, _) in enumerate(places) if which == number]
            if not mine:
                continue
            try:
                x = part.fetch([places[i][1] for i in mine], [keys[i] for i in mine], train)
            except BadSample as error:
                bad |= {row + int(self.starts[number]): why for row, why in error.rows.items()}
                failed = failed or error
                continue
            if "y" in x:
                x["y"] = renumbered(x["y"], torch.from_numpy(self.tables[number]))
            if self.covers is not None:
                x["covered"] = torch.from_numpy(self.covers[number]).repeat(len(mine), 1)
            found.append((mine, x))
        if failed is not None:
            raise BadSample(failed.key, failed.problem, failed.fix, bad)
        return self.merged(found, len(rows)) if len(found) > 1 else found[0][1]

    def merged(self, found: Sequence[tuple[list[int], dict[str, Any]]], size: int) -> dict[str, Any]:
        """The batches of the parts as one of `size` samples; each comes with its samples' places."""
        if len({frozenset(x) for _, x in found}) > 1:
            raise UserError(
                "data.old",
                f"its samples have {sorted(found[1][1])}, and those of data.new {sorted(found[0][1])}",
                "use data of one kind",
            )
        first = self.parts[0]
        tokens = getattr(first, "tokenizer", None)
        fill = {"input_ids": (tokens.pad_token_id or 0) if tokens is not None else 0}
        left = bool(getattr(first, "left", False))
        whole: dict[str, Any] = {}
        for name in found[0][1]:
            if name != "y":
                whole[name] = placed([(mine, x[name]) for mine, x in found], size, fill.get(name, 0), left)
        if "y" in found[0][1] and found[0][1]["y"].ndim > 1:  # boxes of each image
            whole["y"] = placed([(mine, x["y"]) for mine, x in found], size, -1, False)
        elif "y" in found[0][1]:  # one target for each item of a sample, sample after sample
            of_sample: list[Tensor] = [torch.empty(0)] * size
            for mine, x in found:
                counts = x["select"].flatten(1).sum(1).tolist()
                for i, y in zip(mine, x["y"].split(counts), strict=True):
                    of_sample[i] = y
            whole["y"] = torch.cat(of_sample)
        return whole

    # ---- what the parts know of their rows ----

    def digest(self) -> bytes:
        digest = sha256()
        for part in self.parts:
            digest.update(part.digest())
        return digest.digest()

    def lengths(self) -> np.ndarray | None:
        lengths = [part.lengths() for part in self.parts]
        known = [one for one in lengths if one is not None]
        return np.concatenate(known) if len(known) == len(lengths) else None

    def contents(self) -> np.ndarray | None:
        contents = [part.contents() for part in self.parts]
        known = [one for one in contents if one is not None]
        return np.concatenate(known) if len(known) == len(contents) else None

    def beside(self, rows: Sequence[int]) -> Texts | None:
        found = []
        for part, row in map(self.at, rows):
            one = self.parts[part].beside([row])
            if one is None:
                return None
            known = one[0]
            if isinstance(known, Picture) and known.labels is not None:
                known = known._replace(labels=self.tables[part][known.labels])
            found.append(known)
        return Texts(found)

    def bad_rows(self) -> dict[int, str]:
        return {
            row + int(start): why
            for start, part in zip(self.starts, self.parts, strict=False)
            for row, why in part.bad_rows().items()
        }

    def shown(self, row: int) -> dict[str, Any]:
        part, own = self.at(row)
        return self.parts[part].shown(own)

    def raw(self, row: int) -> dict[str, Any]:
        part, own = self.at(row)
        return self.parts[part].raw(own)

    def completed(self, row: int, prediction: dict[str, Any], task: TaskInfo | None) -> dict[str, Any]:
        part, own = self.at(row)
        return self.parts[part].completed(own, prediction, task)

    def filed(self, row: int, prediction: dict[str, Any], folder: Path, task: TaskInfo | None) -> dict[str, Any]:
        part, own = self.at(row)
        return self.parts[part].filed(own, prediction, folder, task)

    def name(self, row: int) -> str:
        part, own = self.at(row)
        return self.parts[part].name(own) + self.said[part]


def renumbered(y: Tensor, table: Tensor) -> Tensor:
    """Classes `[N]` by their numbers in `table`, or boxes `[B, M, 5]` with a class each; −1 stays."""
    if y.ndim == 1:
        return table[y]
    classes = y[..., 4]
    return torch.cat([y[..., :4], torch.where(classes >= 0, table[classes.clamp(min=0)], -1)[..., None]], -1)


def placed(parts: Sequence[tuple[list[int], Tensor]], size: int, fill: int, left: bool) -> Tensor:
    """Rows of several tensors at their places in one of `size` rows, padded with `fill` to the largest of each dimension.

    Padding is at the end of each dimension, or with `left` at its beginning.
    """
    kinds = [tensor.dtype for _, tensor in parts]
    shape = (
        np.max([tensor.shape[1:] for _, tensor in parts], axis=0).astype(int).tolist() if parts[0][1].ndim > 1 else []
    )
    whole = torch.full((size, *shape), fill, dtype=kinds[0])
    for mine, tensor in parts:
        spaces = [slice(-n, None) if left else slice(n) for n in tensor.shape[1:]]
        whole[(torch.tensor(mine), *spaces)] = tensor
    return whole


def augment_alike(new: SFTDataModule, part: SFTDataModule, key: str) -> None:
    """Lets other data augment as the new data does. Raises UserError if it was given settings of its own."""
    for name, default in AUGMENTATION.items():
        if not (hasattr(new, name) and hasattr(part, name)):
            continue
        wanted, own = getattr(new, name), part.arguments.get(name, default)
        if own != default and getattr(part, name) != wanted:
            raise UserError(
                f"{key}.{name}",
                f"is {own}, and data.new has {wanted}: all training samples are augmented alike",
                "set it in data.new alone",
            )
        setattr(part, name, wanted)
