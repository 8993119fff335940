"""Real validation samples with the run's own answers, to which an export's answers are compared."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core.box_reader import Reader
from sft_lightning.core.structures import Batch, Output
from sft_lightning.data.split import Split
from sft_lightning.export.tuned import Tuned
from sft_lightning.networks.base import Network
from sft_lightning.networks.packed import ROW, START
from sft_lightning.tasks import Task, make_task

SAMPLES = {"tokens": 8, "pairs": 16, "masks": 16, "boxes": 16, "audio": 16, "speech": 8, "ctc": 8}
"""Validation samples that are compared, by kind of input; others have MOST"""
MOST = 64
GENERATED = 4
"""Samples for which texts are generated, and the most tokens of such a text"""
LIMIT = 32


@dataclass
class Probe:
    """N validation samples, drawn evenly, with the run's answers in the order of `batches`."""

    kind: str
    """Kind of the network's input, see `InputSpec`; 'ctc' for speech that is written frame by frame"""
    task: Task
    source_task: Task | None
    batches: list[Batch]
    new: list[Tensor]
    """For each batch, `[items, C]` logits of the new head"""
    source: list[Tensor]
    """The same of the source head; empty without one"""
    raw: list[dict[str, Any]]
    """The samples as a user has them; empty dicts for those that only the data can prepare"""
    prompt: dict[str, Tensor] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    """What the run's network generates for `prompt`"""
    ids: list[list[int]] = field(default_factory=list)
    """Tokens of `raw` texts, for networks that generate"""
    readers: list[Reader | None] = field(default_factory=list)
    """For each batch, what reads a detector's logits"""
    limit: int = LIMIT
    """Most tokens of a generated text"""

    @property
    def n(self) -> int:
        """Number of samples."""
        return sum(len(batch["index"]) for batch in self.batches)

    def of(self, head: str) -> list[Tensor]:
        """The run's logits of the 'new' or the 'source' head."""
        return self.new if head == "new" else self.source

    def decisions(self, head: str, logits: list[Tensor]) -> list[Any]:
        """What outputs decide for each sample: its prediction without probabilities and scores. For masks, for each pixel."""
        task = self.task if head == "new" else self.source_task
        assert task is not None
        rows = [
            row
            for batch, found, reader in zip(self.batches, logits, self.readers, strict=True)
            for row in task.decode(Output(found, found, reader=reader), batch)
        ]
        if self.kind == "masks":
            return [pixel for row in rows for pixel in row["mask"].ravel().tolist()]
        return [settled(row) for row in rows]

    def joined(self, head: str) -> np.ndarray:
        """The run's logits of all batches in the form that `split` takes."""
        maps = self.of(head)
        return torch.cat([t.flatten(0, -2) for t in maps] if self.kind == "masks" else maps).numpy()

    def split(self, values: np.ndarray, head: str) -> list[Tensor] | None:
        """Cuts outputs of all items into batches; None if their shape is another one. Those of masks are places of maps."""
        if self.kind == "masks":
            maps = self.of(head)
            counts = [t.numel() // t.shape[-1] for t in maps]
            if values.shape != (sum(counts), maps[0].shape[-1]):
                return None
            parts = torch.split(torch.from_numpy(values), counts)
            return [part.reshape(t.shape) for part, t in zip(parts, maps, strict=True)]
        sizes = [tuple(t.shape) for t in self.of(head)]
        if values.shape != (sum(s[0] for s in sizes), *sizes[0][1:]):
            return None
        return list(torch.split(torch.from_numpy(values), [s[0] for s in sizes]))

    def write(self, folder: Path) -> None:
        """Writes inputs for `elsewhere/`; no answers."""
        arrays: dict[str, np.ndarray] = {"number": np.array(len(self.batches))}
        for number, batch in enumerate(self.batches):
            select = self.task.select(batch)
            held = {**batch["x"], **({} if select is None else {"select": select})}
            arrays |= {f"{number}.{name}": value.numpy() for name, value in held.items()}
        arrays |= {f"prompt.{name}": value.numpy() for name, value in self.prompt.items()}
        np.savez(folder / "batches.npz", **arrays)  # type: ignore[arg-type]
        written = []
        for number, sample in enumerate(self.raw):
            for name in sample.keys() & {"image", "sound"}:
                np.save(folder / f"{number}.npy", sample[name].numpy())
                sample = {name: f"{number}.npy"}
            written.append(sample)
        (folder / "raw.json").write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")


def settled(value: Any) -> Any:
    """A prediction without its floating-point numbers, which never agree to the last digit."""
    if isinstance(value, dict):
        kept = {name: settled(held) for name, held in value.items()}
        return {name: held for name, held in kept.items() if held is not None}
    if isinstance(value, list):
        return None if value and all(isinstance(v, float) for v in value) else [settled(v) for v in value]
    return None if isinstance(value, float) else value


@torch.no_grad()
def take_probe(tuned: Tuned, heads: tuple[str, ...], most: int | None = None) -> Probe:
    """Draws validation samples evenly, and asks the run's network in single precision on the CPU.

    Args:
        tuned: The run.
        heads: 'new', and perhaps 'source'.
        most: Number of samples; by default that of the kind of input.
    """
    network, data = tuned.network.float() if single(tuned) else tuned.network, tuned.data
    kind = kind_of(network)
    split = data.splits["val"]
    number = min(len(split), most or SAMPLES.get(kind, MOST))
    at = np.linspace(0, len(split) - 1, number).round().astype(np.int64)
    targets = None if split.targets is None else split.targets[at]
    data.splits["val"] = drawn = Split(split.samples, split.rows[at], targets, False, "val")
    generates, data.generate_samples = data.generate_samples, 0
    try:
        batches = [tidy(data.receive(batch)) for batch in data.loader("val", 0, 1)]
    finally:
        data.splits["val"], data.generate_samples = split, generates
    source_task = make_task(network.source_task) if network.source_task is not None and "source" in heads else None
    probe = Probe(kind, tuned.task, source_task, batches, [], [], [])
    network.eval()
    for batch in batches:
        found = network(batch["x"], tuned.task.select(batch))
        probe.new.append(found.logits.float())
        probe.readers.append(found.reader)
        if source_task is not None:
            assert found.source_logits is not None
            probe.source.append(found.source_logits.float())
    rows = [int(row) for batch in batches for row in batch["index"]]
    probe.raw = [drawn.samples.raw(row) for row in rows]
    generate(probe, tuned, rows[:GENERATED])
    return probe


def kind_of(network: Network) -> str:
    """The kind of input, which for speech does not say how texts are written."""
    return "ctc" if network.task.name == "ctc" else network.input_spec.kind


def single(tuned: Tuned) -> bool:
    """Whether the network computes in single precision; others keep theirs, as the export does."""
    return all(p.dtype == torch.float32 for p in tuned.network.parameters())


def tidy(batch: Batch) -> Batch:
    """A batch without the layout of packed rows, so that each sample has a row of its own."""
    return {**batch, "x": {name: value for name, value in batch["x"].items() if name not in (ROW, START)}}


def generate(probe: Probe, tuned: Tuned, rows: list[int]) -> None:
    """Adds texts that the network generates for the first samples, if it generates texts."""
    network, samples = tuned.network, tuned.data.splits["val"].samples
    prompts = samples.prompts(rows)
    if not prompts or not hasattr(network, "generation"):
        return
    generation: Any = network.generation
    most = generation.max_new_tokens
    generation.max_new_tokens = probe.limit = min(LIMIT, most)
    try:
        probe.prompt, probe.texts = prompts["prompt"], network.generate(prompts["prompt"])
    finally:
        generation.max_new_tokens = most
    if probe.kind == "tokens":
        probe.raw = [samples.shown(row) for batch in probe.batches for row in batch["rows"]]
    if all("text" in sample for sample in probe.raw):
        probe.ids = network.tokenizer([sample["text"] for sample in probe.raw])["input_ids"]  # type: ignore[operator]
