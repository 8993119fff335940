"""The inputs of a comparison: batches as they were fed to the run's network, and samples as a user has them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


class Inputs:
    """What `probe.py` wrote.

    Args:
        folder: The folder of one job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.raw: list[dict[str, Any]] = json.loads((folder / "raw.json").read_text(encoding="utf-8"))
        with np.load(folder / "batches.npz") as held:
            self.arrays = {name: held[name] for name in held.files}

    def batches(self) -> Iterator[Arrays]:
        """Inputs of each batch by name, with `select` if the batch has it."""
        for number in range(int(self.arrays["number"])):
            start = f"{number}."
            yield {n.removeprefix(start): v for n, v in self.arrays.items() if n.startswith(start)}

    def image(self, sample: dict[str, Any]) -> Any:
        """A sample's image, as Pillow opens it."""
        from PIL import Image

        pixels = np.load(self.folder / sample["image"])
        return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))

    def sound(self, sample: dict[str, Any]) -> np.ndarray:
        """A sample's sound at the network's rate."""
        found: np.ndarray = np.load(self.folder / sample["sound"])
        return found


Run = Callable[[Arrays], np.ndarray]
"""Runs a network with one of its heads on one batch's inputs"""


def rows_of(run: Run, batch: Arrays) -> np.ndarray:
    """The outputs of a batch's items: those that `select` marks, in order."""
    select = batch.get("select")
    x = {name: value for name, value in batch.items() if name != "select"}
    mask = x.get("attention_mask")
    if mask is None or mask.ndim == 2:
        found = run(x)
        return found if select is None else found[select]
    there = mask.any(-1)  # [B, K, T]: rows of padding alone are never fed
    found = run({name: value[there] for name, value in x.items()})
    assert select is not None
    if select.ndim == 2:  # choices: one row of scores each
        return found[select[there]]
    whole = np.zeros((*mask.shape, found.shape[-1]), dtype=found.dtype)
    whole[there] = found
    return whole[select]


# ---- samples as a user has them ----


def prepared(kind: str, sample: dict[str, Any], tokenizer: Any) -> Arrays:
    """Inputs of one sample, by the folder's own tokenizer."""
    cut: dict[str, Any] = {"return_tensors": "np", "verbose": False}
    if tokenizer.model_max_length < 10**9:
        cut |= {"truncation": True, "max_length": tokenizer.model_max_length}
    if kind == "text":
        return of(tokenizer([sample["text"]], *([[sample["pair"]]] if "pair" in sample else []), **cut))
    if kind == "words":
        made = tokenizer([sample["words"]], is_split_into_words=True, **cut)
        words = made.word_ids(0)
        first = [w is not None and (not at or words[at - 1] != w) and w not in words[:at] for at, w in enumerate(words)]
        return {**of(made), "select": np.array([first])}
    if kind == "choices":
        made = of(tokenizer(sample["first"], sample["second"], padding=True, **cut))
        each = {name: value[None] for name, value in made.items()}
        return {**each, "select": np.ones((1, len(sample["first"])), dtype=bool)}
    cut["return_offsets_mapping"] = True
    if "truncation" in cut:
        length = tokenizer.model_max_length
        stride = length // 3 if sample.get("stride") is None else sample["stride"]
        cut |= {"truncation": "only_second", "stride": stride, "return_overflowing_tokens": True}
    made = tokenizer([sample["question"]], [sample["context"]], padding=True, **cut)
    marks = []
    for window, places in enumerate(made["offset_mapping"].tolist()):
        parts = made.sequence_ids(window)
        may = [p == 1 and bool(sample["context"][a:b].strip()) for p, (a, b) in zip(parts, places, strict=True)]
        marks.append([True, *may[1:]])
    each = {name: value[None] for name, value in of(made).items()}
    return {**each, "select": np.array([marks])}


def of(made: Any) -> Arrays:
    """The network's inputs among a tokenizer's."""
    return {n: made[n] for n in ("input_ids", "attention_mask", "token_type_ids") if n in made}
